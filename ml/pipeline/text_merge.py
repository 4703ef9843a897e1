"""Makes the texts of chunks read as one: each was written by a model that heard nothing of the chunk before."""

from collections.abc import Iterable, Sequence

_ENDS = ".!?…"  # of a sentence
_CLOSING = '»”")'
_STRAY = ",.;:!?…»)"  # belongs to the word before it, which a chunk's beginning has not
# After these a full stop ends no sentence.
_ABBREVIATIONS = frozenset(["г", "гг", "в", "вв", "т", "д", "е", "п", "др", "пр", "им", "ул", "руб", "коп", "млн"])
# Words that are no names: with a capital letter in the middle of a sentence they are there because a chunk begins.
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


_MAX_BROKEN = 2  # words on each side of a cut that may be broken, or misheard for want of what is beyond it
_MAX_BETWEEN = 3  # words that only the seam knows


def join_texts(texts: Iterable[str]) -> str:
    """The texts of consecutive stretches as one; those in which nothing is said leave no trace."""
    joined = ""
    for text in texts:
        joined = f"{joined} {continue_text(joined, text)}".strip()
    return joined


def continue_text(before: str, text: str) -> str:
    """`text` as it reads after `before`, what was last said ("" for nothing), to be put after one space.

    Spaces are single, and punctuation that a text begins with is dropped. A new sentence begins with a capital letter.
    Within a sentence a capital is taken from words that cannot be names; of others nobody knows whether they are.
    """
    words = " ".join(text.split()).lstrip(_STRAY + " ")
    if not before or not words:
        return words
    first, _, rest = words.partition(" ")
    if _is_sentence_end(before):
        return words[0].upper() + words[1:]
    if first[1:].islower() or len(first) == 1:
        lowered = first.lower()
        if lowered.rstrip(_STRAY) in _NO_NAMES and not before.endswith(":"):
            return f"{lowered} {rest}".rstrip()
    return words


def _is_sentence_end(before: str) -> bool:
    bare = before.rstrip(_CLOSING)
    if not bare.endswith(tuple(_ENDS)):
        return False
    last = bare.split()[-1]
    return not (last.endswith(".") and last[:-1].lower().rpartition(".")[2] in _ABBREVIATIONS)


def merge_overlap(before: str, seam: str, after: str) -> tuple[str, str]:
    """`before` and `after`, heard on either side of a cut that may be in a word, mended by what was heard around it.

    `seam` begins with words that `before` ends with and ends with words that `after` begins with. What comes between
    them goes to `before`, in place of the pieces of a broken word. Where the texts do not meet so, they are left alone.
    """
    left, middle, right = before.split(), seam.split(), after.split()
    head = _meet(left, middle)
    if head is None:
        return before, after
    broken, end, _ = head
    tail = _meet(right[::-1], middle[end:][::-1])
    if tail is None or len(middle) - tail[1] - end > _MAX_BETWEEN:
        return before, after
    begin = len(middle) - tail[1]
    # The seam's own spelling at the cut: there `before` ends with a full stop and `after` begins with a capital letter.
    return (
        " ".join([*left[: len(left) - broken - 1], *middle[end - 1 : begin]]),
        " ".join([*middle[begin : begin + 1], *right[tail[0] + 1 :]]),
    )


def _meet(text: Sequence[str], seam: Sequence[str]) -> tuple[int, int, int] | None:
    """Where the end of `text`, but for a few broken words, is found again in `seam`.

    How many words are broken, where the words in common end in the seam, and how many they are.
    """
    bare, heard = [_bare(word) for word in text], [_bare(word) for word in seam]
    best: tuple[int, int, int] | None = None
    for broken in range(min(_MAX_BROKEN + 1, len(bare))):
        known = bare[: len(bare) - broken]
        for end in range(1, len(heard) + 1):
            length = _common_suffix(known, heard[:end])
            if length and (best is None or length > best[2]) and (length > 1 or len(known[-1]) > 3):
                best = broken, end, length
    return best


def _common_suffix(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((number for number, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _bare(word: str) -> str:
    return word.lower().replace("ё", "е").strip(_STRAY + _CLOSING + "«—-")
