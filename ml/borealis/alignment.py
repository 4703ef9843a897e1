"""Places tokens in the audio by the decoder's attention, then words at the pauses of the speech."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ml.audio.levels import FRAME_S, voiced_frames
from ml.interfaces import SAMPLE_RATE, Waveform
from ml.transcript import Word

POSITION_S = 0.08  # of the audio that an embedding stands for: 4 frames of the encoder
POSITION_SAMPLES = round(POSITION_S * SAMPLE_RATE)
FLOOR = 1e-3  # added to attention before its logarithm, so that one unattended position does not outweigh all others
PAUSE_FRAMES = 5  # 50 ms without voice: the next voiced frame begins a word
SNAP_FRAMES = 12  # a start is moved so far at most: positions and the attention's blur

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


class Head(NamedTuple):
    """An attention head whose audio positions advance with the text.

    With lag 0 it attends to a token's audio in the step that predicts the token, with lag 1 in the next one.
    """

    layer: int
    number: int
    lag: int


def combine(attention: Floats, lags: Sequence[int], positions: int) -> Floats:
    """Mean logarithm (n + 1, positions) of the attention (heads, n + 1, A) of n tokens and the end of text.

    Steps are shifted by each head's lag. The audio ends after `positions`; attention to the padding is left out.
    """
    cut = attention[:, :, :positions]
    logs = np.log(cut / (cut.sum(axis=-1, keepdims=True) + 1e-9) + FLOOR)
    unknown = np.full((1, positions), np.log(1 / positions + FLOOR))  # no step has the end of text as its input
    shifted = [np.concatenate([log[lag:], *[unknown] * lag]) for log, lag in zip(logs, lags, strict=True)]
    return np.asarray(np.mean(shifted, axis=0))


def align(gains: Floats) -> Ints:
    """Bounds (n + 1,) of the n rows of `gains` (n, positions), row i at positions bounds[i]…bounds[i + 1] - 1.

    Rows follow each other, cover every position, may be empty, and gain the largest sum: dynamic programming over the
    prefix sums of each row.
    """
    n_rows, positions = gains.shape
    sums = np.concatenate([np.zeros((n_rows, 1)), np.cumsum(gains, axis=1)], axis=1)  # (n, positions + 1)
    columns = np.arange(positions + 1)
    best = np.where(columns == 0, 0.0, -np.inf)  # sum of the rows so far, where the next begins at each column
    begins = []
    for row in sums:
        gain = best - row
        highest = np.maximum.accumulate(gain)
        begins.append(np.maximum.accumulate(np.where(gain == highest, columns, 0)))
        best = highest + row
    bounds = [positions]
    for begin in reversed(begins):
        bounds.append(int(begin[bounds[-1]]))
    return np.array(bounds[::-1])


def words_of(pieces: Sequence[str], probabilities: Sequence[float], bounds: Ints) -> list[Word]:
    """The words of a text given by its tokens' `pieces`, with the tokens' `bounds` as times; a space begins a word.

    Punctuation takes no part in a word's times: the alignment gives it the pause that follows.
    """
    starts = [index for index, piece in enumerate(pieces) if index == 0 or piece[:1].isspace()]
    words = []
    for first, end in pairwise([*starts, len(pieces)]):
        tokens = range(first, end)
        spoken = [index for index in tokens if any(map(str.isalnum, pieces[index]))] or tokens
        words.append(
            Word(
                text="".join(pieces[first:end]).strip(),
                start_s=float(bounds[spoken[0]]) * POSITION_S,
                end_s=float(bounds[spoken[-1] + 1]) * POSITION_S,
                confidence=sum(probabilities[first:end]) / len(tokens),
            )
        )
    return [word for word in words if word.text]


def snap_to_voice(words: Sequence[Word], waveform: Waveform) -> tuple[Word, ...]:
    """`words` whose starts lie at the onset of voice after a pause where one is near, and which end with the voice.

    Words keep their order and do not overlap.
    """
    voiced = voiced_frames(waveform)
    starts = _snap([round(word.start_s / FRAME_S) for word in words], voiced)
    snapped = []
    for index, word in enumerate(words):
        start, end = starts[index], max(starts[index], min(round(word.end_s / FRAME_S), len(voiced)))
        if index + 1 < len(words):
            end = min(end, starts[index + 1])
        inside = start + np.flatnonzero(voiced[start:end])
        if len(inside):
            start, end = int(inside[0]), int(inside[-1]) + 1
        snapped.append(replace(word, start_s=start * FRAME_S, end_s=end * FRAME_S))
    return tuple(snapped)


def _snap(starts: Sequence[int], voiced: NDArray[np.bool_]) -> list[int]:
    """`starts`, ascending frames, each moved to an onset that is near, unless that passes the start beside it."""
    recent = np.convolve(voiced, np.ones(PAUSE_FRAMES + 1))[: len(voiced)]  # voiced frames among the last ones
    onsets = np.flatnonzero(voiced & (recent == 1))
    snapped: list[int] = []
    for index, start in enumerate(starts):
        before = snapped[-1] if snapped else -1
        after = starts[index + 1] if index + 1 < len(starts) else len(voiced)
        near = [int(onset) for onset in onsets if abs(onset - start) <= SNAP_FRAMES and before < onset < after]
        snapped.append(min(near, key=lambda onset: abs(onset - start), default=max(start, before)))
    return snapped
