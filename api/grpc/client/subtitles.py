"""Splits segments into readable subtitles: at most two lines, each with its time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from generated.v1.transcription_pb2 import Segment, TranscriptionResponse

LINE_CHARS = 42
CUE_CHARS = 2 * LINE_CHARS  # two lines, read in about 7 s

# By how many characters a cut may move from the even one to fall after such a sign.
_PULL = {**dict.fromkeys(".!?…", 20), **dict.fromkeys(",;:—–", 10)}


@dataclass(frozen=True)
class Cue:
    """One subtitle; `text` has one or two lines."""

    start_ms: int
    end_ms: int
    text: str


def cues(response: TranscriptionResponse) -> Iterator[Cue]:
    """The subtitles of all segments with text.

    A segment longer than two lines is split between words, its time in proportion to the characters: segments have
    times, words have none.
    """
    for segment in response.segments or [_whole(response)]:
        parts = split_text(segment.text)
        sizes = [0, *accumulate(len(part) for part in parts)]
        length_s = segment.end_s - segment.start_s
        times_ms = [round(1000 * (segment.start_s + length_s * size / max(sizes[-1], 1))) for size in sizes]
        for part, (start_ms, end_ms) in zip(parts, pairwise(times_ms), strict=True):
            yield Cue(start_ms, max(end_ms, start_ms + 1), _two_lines(part))


def split_text(text: str) -> list[str]:
    """Split text between words into parts of at most CUE_CHARS, about equal, preferably after a sentence or comma.

    A longer word stays whole, and other parts may then be as long. Text without words has no parts.
    """
    words = text.split()
    limit_chars = max(CUE_CHARS, max(map(len, words), default=0))
    count = -(-len(" ".join(words)) // CUE_CHARS)
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
