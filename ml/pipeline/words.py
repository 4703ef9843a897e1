"""Gives the words of a text their places in the recording: the model's, or shares of the voiced time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ml.audio.levels import FRAME_S, frame_powers
from ml.audio.splitter import Chunk
from ml.interfaces import Waveform
from ml.transcript import Completion, Word

_VOICED_SHARE = 0.3  # of the range from the noise floor to speech, in dB; quieter frames are a pause
_MAX_RANGE_DB = 45.0
_MIN_RANGE_DB = 6.0  # with less there are no pauses
_SMOOTH_FRAMES = 3  # 30 ms


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
    """Words that share the voiced time of `waveform` (N,) by their numbers of characters; times from its beginning."""
    if not texts:
        return []
    voiced_s = np.flatnonzero(_is_voiced(waveform)) * FRAME_S  # starts of the voiced frames
    if not len(voiced_s):
        voiced_s = np.zeros(1)
    ends = np.cumsum([len(text) + 1 for text in texts])  # a space follows each word
    bounds = np.concatenate([[0], ends]) / ends[-1] * len(voiced_s)
    # A word begins in the frame after a pause and ends in the frame before one, though both have one position.
    first = np.minimum(bounds[:-1].astype(int), len(voiced_s) - 1)
    last = np.ceil(bounds[1:]).astype(int) - 1
    starts_s = voiced_s[first] + (bounds[:-1] - first) * FRAME_S
    ends_s = voiced_s[last] + (bounds[1:] - last) * FRAME_S
    return [
        Word(text, float(start_s), float(end_s), is_estimated=True)
        for text, start_s, end_s in zip(texts, starts_s, ends_s, strict=True)
    ]


def _is_voiced(waveform: Waveform) -> NDArray[np.bool_]:
    """Whether each frame (n,) of FRAME_S is louder than the pauses of `waveform` (N,)."""
    powers = frame_powers(waveform)
    if len(powers) < _SMOOTH_FRAMES:
        return np.ones(len(powers), bool)
    smooth = np.convolve(powers, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), mode="same")
    levels = 10 * np.log10(np.maximum(smooth, 1e-12))
    speech = np.percentile(levels, 90)
    floor = max(levels.min(), speech - _MAX_RANGE_DB)
    if speech - floor < _MIN_RANGE_DB:
        return np.ones(len(powers), bool)
    return np.asarray(levels > floor + _VOICED_SHARE * (speech - floor))
