"""Makes the texts of chunks read as one: each was written by a model that heard nothing of the chunk before."""

from collections.abc import Iterable

_ENDS = ".!?…"  # of a sentence
_CLOSING = '»”")'
_STRAY = ",.;:!?…»)"  # belongs to a word before it, and a chunk has none
# After these a full stop ends no sentence.
_ABBREVIATIONS = frozenset(
    "г гг в вв т д е п др пр см стр ул им руб коп тыс млн млрд проф акад".split()  # fmt: skip
)
# Words that are no names: with a capital letter in the middle of a sentence they are there because a chunk begins.
_NO_NAMES = frozenset(
    """а без более бы был была были было быть в вам вас ведь во вот вы где да для до его ей ему если есть ещё еще ею её
    ее же за здесь и из или им их к как какая какие какой когда конечно которая которого которое которой котором
    которому которую которые который которых кто куда ли либо мне меня мной может можно мы на над надо нам нас не него
    нее неё нет нею ни ним них но ну нужно о об однако он она они оно от откуда очень перед по под пока после поскольку
    потом потому поэтому почему при про раз с сам сама сами сейчас сначала со собой собою стали стало так также такая
    такие такой там тем теперь тех то тогда тоже той только том тому тот ту тут ты у уже хотя чем через что чтобы эта
    эти это этого этой этом этому эту этот я""".split()
)


def join_texts(texts: Iterable[str]) -> str:
    """The texts of consecutive stretches as one; those in which nothing is said leave no trace."""
    joined = ""
    for text in texts:
        joined = f"{joined} {continued(joined, text)}".strip()
    return joined


def continued(before: str, text: str) -> str:
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
