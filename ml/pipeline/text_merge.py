"""Makes the texts of chunks read as one: the model wrote each of them without knowing the chunk before."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ml.pipeline.words import text_of
from ml.transcript import Word

_ENDS = ".!?"  # of a sentence
_BROKEN_OFF = ("...", "…")  # where a chunk ends in the middle of a sentence, or the speech does
_CLOSING = '»”")'
_STRAY = ",.;:!?…»)"  # belongs to the word before it, which the beginning of a chunk lacks
# After these a full stop ends no sentence.
_ABBREVIATIONS = frozenset(["г", "гг", "в", "вв", "т", "д", "е", "п", "др", "пр", "им", "ул", "руб", "коп", "млн"])
# Words that are no names: in the middle of a sentence, their capital letter only means that a chunk begins there.
_NO_NAMES = frozenset(
    word
    for line in (
        "а без более бы был была были было быть в вам вас ведь во вот вы где да для до его ей ему если есть ещё еще",
        "её ее же за здесь и из или им их к как какая какие какой когда конечно которая которого которое которой",
        "котором которому которую которые который которых кто куда ли либо мне меня мной может можно мы на над надо",
        "нам нас не него неё нее нет ни ним них но ну нужно о об однако он она они оно от откуда очень перед по под",
        "пока после поскольку потом потому поэтому почему при про с сам сама сами сейчас сначала со так также такая",
        "такие такой там тем теперь тех то тогда тоже только том тому тот тут ты у уже хотя чем через что чтобы эта",
        "эти это этого этой этом этому эту этот я",
    )
    for word in line.split()
)
_MAX_BROKEN = 2  # words on each side of a cut that may be broken, or wrong because the audio ends there
_MAX_BETWEEN = 3  # words that are in the overlap alone


def join_words(parts: Iterable[Sequence[Word]]) -> tuple[Word, ...]:
    """The words of consecutive stretches as they read together."""
    joined: tuple[Word, ...] = ()
    for words in parts:
        joined += continue_words(text_of(joined), words)
    return joined


def continue_words(before: str, words: Sequence[Word]) -> tuple[Word, ...]:
    """`words` as they read after `before`, the last text ("" for none).

    Punctuation at the beginning is dropped. A new sentence begins with a capital letter. Within a sentence, words that
    cannot be names lose their capital letter; other words keep it, since they may be names. After an ellipsis the
    sentence may go on or not: the words stay as they are.
    """
    words = _without_stray_start(words)
    if not before or not words or before.endswith(_BROKEN_OFF):
        return words
    first = words[0].text
    if _is_sentence_end(before):
        return _respelled(words, first[0].upper() + first[1:])
    if first[1:].islower() or len(first) == 1:
        lowered = first.lower()
        if lowered.rstrip(_STRAY) in _NO_NAMES and not before.endswith(":"):
            return _respelled(words, lowered)
    return words


def _without_stray_start(words: Sequence[Word]) -> tuple[Word, ...]:
    for index, word in enumerate(words):
        if text := word.text.lstrip(_STRAY):
            return _respelled(tuple(words[index:]), text)
    return ()


def _respelled(words: tuple[Word, ...], first: str) -> tuple[Word, ...]:
    return words if words[0].text == first else (replace(words[0], text=first), *words[1:])


def _is_sentence_end(before: str) -> bool:
    bare = before.rstrip(_CLOSING)
    if not bare.endswith(tuple(_ENDS)):
        return False
    last = bare.split()[-1]
    return not (last.endswith(".") and last[:-1].lower().rpartition(".")[2] in _ABBREVIATIONS)


def merge_overlap(
    before: Sequence[Word], overlap: Sequence[Word], after: Sequence[Word]
) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """`before` and `after`, recognised on either side of a cut that may lie within a word, mended by `overlap`.

    `overlap`, recognised around the cut, begins with words that `before` ends with and ends with words that `after`
    begins with. The words between them replace the parts of a broken word at the end of `before`. Where the texts do
    not meet so, they stay as they are.
    """
    left, middle, right = ([_bare(word.text) for word in words] for words in (before, overlap, after))
    head = _meet(left, middle)
    if head is None:
        return tuple(before), tuple(after)
    broken, end, _ = head
    tail = _meet(right[::-1], middle[end:][::-1])
    if tail is None or len(middle) - tail[1] - end > _MAX_BETWEEN:
        return tuple(before), tuple(after)
    begin = len(middle) - tail[1]
    # The overlap's spelling at the cut: there `before` ends with a full stop and `after` begins with a capital letter.
    return (
        (*before[: len(before) - broken - 1], *overlap[end - 1 : begin]),
        (*overlap[begin : begin + 1], *after[tail[0] + 1 :]),
    )


def _meet(text: Sequence[str], overlap: Sequence[str]) -> tuple[int, int, int] | None:
    """Find the end of `text`, except for a few broken words, in `overlap`; both are bare words.

    Return the number of broken words, the end of the common words in `overlap`, and their number.
    """
    best: tuple[int, int, int] | None = None
    for broken in range(min(_MAX_BROKEN + 1, len(text))):
        known = text[: len(text) - broken]
        for end in range(1, len(overlap) + 1):
            length = _common_suffix(known, overlap[:end])
            if length and (best is None or length > best[2]) and (length > 1 or len(known[-1]) > 3):
                best = broken, end, length
    return best


def _common_suffix(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _bare(word: str) -> str:
    return word.lower().replace("ё", "е").strip(_STRAY + _CLOSING + "«—-")
