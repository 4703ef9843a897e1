"""Gives the words of a text their places in the recording: the model's, or shares of the voiced time."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ml.audio.levels import FRAME_S, Frames, voiced_frames
from ml.audio.splitter import Chunk
from ml.interfaces import Waveform
from ml.transcript import Completion, Word

_ROUNDING = 1e-9  # of bounds, in frames
_WORD_PAUSE_S = 0.25  # longer than the closure of a stop consonant: between words, not within one


def text_of(words: Sequence[Word]) -> str:
    """The words as one text."""
    return " ".join(word.text for word in words)


def words_of(completion: Completion, chunk: Chunk, with_times: bool) -> tuple[Word, ...]:
    """The words of `completion` with times from the beginning of the recording, within `chunk`.

    Without `with_times` each word has the times of the whole chunk.
    """
    texts = completion.text.split()
    if not with_times:
        return tuple(Word(text, chunk.start_s, chunk.end_s, is_estimated=True) for text in texts)
    words = _align(texts, completion.words) or _estimate(texts, chunk.waveform)
    return tuple(
        within(
            replace(word, start_s=chunk.start_s + word.start_s, end_s=chunk.start_s + word.end_s),
            chunk.start_s,
            chunk.end_s,
        )
        for word in words
    )


def within(word: Word, start_s: float, end_s: float) -> Word:
    """`word` cut to [start_s, end_s]."""
    first_s, last_s = (min(max(time_s, start_s), end_s) for time_s in (word.start_s, word.end_s))
    return replace(word, start_s=first_s, end_s=max(first_s, last_s))


def _align(texts: Sequence[str], words: Sequence[Word]) -> list[Word]:
    """One word for each of `texts`, made of those of the model; none unless both spell the same text.

    A model may divide a text otherwise than at its spaces.
    """
    letters = [index for index, word in enumerate(words) for _ in _bare(word.text)]
    if "".join(texts) != "".join(_bare(word.text) for word in words):
        return []
    aligned, start = [], 0
    for text in texts:
        parts = [words[index] for index in dict.fromkeys(letters[start : start + len(text)])]
        aligned.append(_combine(text, parts))
        start += len(text)
    return aligned


def _combine(text: str, parts: Sequence[Word]) -> Word:
    return Word(
        text,
        min(part.start_s for part in parts),
        max(part.end_s for part in parts),
        mean_confidence([(part.confidence, len(part.text)) for part in parts]),
        any(part.is_estimated for part in parts),
    )


def mean_confidence(parts: Sequence[tuple[float | None, int]]) -> float | None:
    """The mean of (confidence, weight); None where one is missing."""
    known = [(confidence, weight) for confidence, weight in parts if confidence is not None]
    total = sum(weight for _, weight in known)
    if len(known) < len(parts) or not total:
        return None
    return sum(confidence * weight for confidence, weight in known) / total


def _bare(text: str) -> str:
    return "".join(text.split())


def _estimate(texts: Sequence[str], waveform: Waveform) -> list[Word]:
    """Words that share the voiced time of `waveform` (N,) by their numbers of characters; times from its beginning.

    A pause lies between two words and in none.
    """
    if not texts:
        return []
    voiced_s = np.asarray(np.flatnonzero(voiced_frames(waveform)) * FRAME_S, np.float64)  # starts of the voiced frames
    if not len(voiced_s):
        voiced_s = np.zeros(1)
    bounds = _at_pauses(_shares(texts) * len(voiced_s), voiced_s)
    words = []
    for text, start, end in zip(texts, bounds, bounds[1:], strict=False):
        start_s, end_s = _longest_run(voiced_s, start, end)
        words.append(Word(text, start_s, end_s, is_estimated=True))
    return words


def _shares(texts: Sequence[str]) -> Frames:
    """The bounds (W + 1,) of the words in [0, 1], by their numbers of characters; a space follows each word."""
    ends = np.cumsum([0] + [len(text) + 1 for text in texts])
    return np.asarray(ends / ends[-1], np.float64)


def _at_pauses(bounds: Frames, voiced_s: Frames) -> Frames:
    """Move bounds of words to the pauses nearest to them, and those between in proportion.

    bounds: (W + 1,), counted in voiced frames; voiced_s: where those start (n,)
    """
    after = np.flatnonzero(np.diff(voiced_s) > _WORD_PAUSE_S + FRAME_S) + 1  # first frames after a pause
    taken = {0: 0, len(bounds) - 1: len(voiced_s)}  # by the number of the bound
    for frame in sorted(after.tolist(), key=lambda frame: voiced_s[frame - 1] - voiced_s[frame]):  # longest first
        bound = int(np.argmin(np.abs(bounds - frame)))
        if bound not in taken and all((bound - other) * (frame - at) > 0 for other, at in taken.items()):
            taken[bound] = frame
    numbers = sorted(taken)
    return np.asarray(np.interp(bounds, bounds[numbers], [taken[number] for number in numbers]), np.float64)


def _longest_run(voiced_s: Frames, start: float, end: float) -> tuple[float, float]:
    """Times of the longest stretch without a pause between two places, which are counted in voiced frames."""
    first = min(int(start), len(voiced_s) - 1)
    last = max(math.ceil(end - _ROUNDING) - 1, first)
    pauses = first + np.flatnonzero(np.diff(voiced_s[first : last + 1]) > _WORD_PAUSE_S + FRAME_S)
    runs = list(zip([first, *(pauses + 1)], [*pauses, last], strict=True))
    longest = max(runs, key=lambda run: run[1] - run[0])
    starts_at = max(start, longest[0]) - longest[0]
    ends_at = min(end, longest[1] + 1) - longest[1]
    return float(voiced_s[longest[0]] + starts_at * FRAME_S), float(voiced_s[longest[1]] + ends_at * FRAME_S)
