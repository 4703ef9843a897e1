"""Splits segments into readable subtitles: at most two lines, each with its time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from generated.v1.transcription_pb2 import Segment, TranscriptionResponse

LINE_CHARS = 42
CUE_CHARS = 2 * LINE_CHARS  # two lines, read in about 7 s
PAUSE_S = 1.0  # within a sentence pauses are shorter; in a dialogue the other speaker may begin

# By how many characters a cut may move from the even one to fall after such a sign.
_PULL = {**dict.fromkeys(".!?…", 20), **dict.fromkeys(",;:—–", 10)}


@dataclass(frozen=True)
class Cue:
    """One subtitle; `text` has one or two lines."""

    start_ms: int
    end_ms: int
    text: str


def cues(response: TranscriptionResponse) -> list[Cue]:
    """The subtitles of all segments with text, by time; those of separate channels begin with the channel's name.

    A segment is split between words: at its pauses where its words have times, and where it is longer than two lines.
    """
    found = [cue for segment in response.segments or [_whole(response)] for cue in _cues_of(segment)]
    return sorted(found, key=lambda cue: cue.start_ms)


def _cues_of(segment: Segment) -> Iterator[Cue]:
    name = f"Канал {segment.channel}: " if segment.channel else ""
    has_words = segment.text.split() == [word.text for word in segment.words]
    for start_s, end_s, part in (_parts_by_words if has_words else _parts_by_share)(segment, CUE_CHARS - len(name)):
        start_ms = round(1000 * start_s)
        yield Cue(start_ms, max(round(1000 * end_s), start_ms + 1), _two_lines(name + part))


def _parts_by_words(segment: Segment, limit_chars: int) -> Iterator[tuple[float, float, str]]:
    """Parts with the time from their first word to their last, split at pauses of PAUSE_S as well."""
    words = list(segment.words)
    pauses = [place for place in range(1, len(words)) if words[place].start_s - words[place - 1].end_s >= PAUSE_S]
    for start, end in pairwise([0, *pauses, len(words)]):
        for part in split_text(" ".join(word.text for word in words[start:end]), limit_chars):
            last = start + len(part.split()) - 1
            yield words[start].start_s, words[last].end_s, part
            start = last + 1


def _parts_by_share(segment: Segment, limit_chars: int) -> Iterator[tuple[float, float, str]]:
    """Parts that share the segment's time in proportion to their characters."""
    parts = split_text(segment.text, limit_chars)
    sizes = [0, *accumulate(len(part) for part in parts)]
    length_s = segment.end_s - segment.start_s
    times_s = [segment.start_s + length_s * size / max(sizes[-1], 1) for size in sizes]
    for part, (start_s, end_s) in zip(parts, pairwise(times_s), strict=True):
        yield start_s, end_s, part


def split_text(text: str, limit_chars: int = CUE_CHARS) -> list[str]:
    """Split text between words into parts of at most `limit_chars`, about equal, preferably after a sentence or comma.

    A longer word stays whole, and other parts may then be as long. Text without words has no parts.
    """
    words = text.split()
    count = -(-len(" ".join(words)) // limit_chars)
    limit_chars = max(limit_chars, max(map(len, words), default=0))
    while count < len(words):
        parts = _even_parts(words, count)
        if max(map(len, parts)) <= limit_chars:
            return parts
        count += 1
    return words


def _even_parts(words: list[str], count: int) -> list[str]:
    """`count` parts of at least one word each."""
    ends = list(accumulate(len(word) + 1 for word in words))  # of each word, in characters
    cuts = [0]
    for part in range(1, count):
        target = ends[-1] * part / count
        allowed = range(cuts[-1] + 1, len(words) - (count - part) + 1)
        cuts.append(min(allowed, key=lambda cut: abs(ends[cut - 1] - target) - _PULL.get(words[cut - 1][-1], 0)))
    return [" ".join(words[start:end]) for start, end in pairwise([*cuts, len(words)])]


def _two_lines(text: str) -> str:
    if len(text) <= LINE_CHARS:
        return text
    spaces = [place for place, sign in enumerate(text) if sign == " "]
    if not spaces:
        return text
    middle = min(spaces, key=lambda place: abs(place - len(text) / 2))
    return f"{text[:middle]}\n{text[middle + 1 :]}"


def _whole(response: TranscriptionResponse) -> Segment:
    """One segment for all, for a response without segments."""
    return Segment(start_s=0.0, end_s=response.audio_duration, text=response.transcript)
