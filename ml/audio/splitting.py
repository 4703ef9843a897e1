"""Splits a waveform of any length into chunks the model can take, cut at pauses, while it is still arriving."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ml.audio.command import SAMPLE_RATE
from ml.audio.pauses import FRAME_S, Cut, Frames, best_cut, frame_powers

MAX_CHUNK_S = 30
MIN_TARGET_S = 1
_EARLIEST_SHARE = 0.2  # of the target: a pause sooner than that is not worth a chunk
_MAX_TAIL_S = 1.0  # what is left after the last cut should be no shorter, or the model gets a sliver

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Chunk:
    """A cut for the model.

    waveform: mono float32 (N,) in [-1, 1]; may share memory with what it was cut from, so do not write to it
    start_sample: its place in the whole recording
    sample_rate: Hz
    ends_in_word: whether there may be a word where it ends, for want of a pause
    """

    waveform: Waveform
    start_sample: int
    sample_rate: int = SAMPLE_RATE
    ends_in_word: bool = False

    @property
    def start_s(self) -> float:
        """Start in the recording, seconds."""
        return self.start_sample / self.sample_rate

    @property
    def end_s(self) -> float:
        """End in the recording, seconds."""
        return (self.start_sample + len(self.waveform)) / self.sample_rate


class PauseSplitter:
    """Takes a recording in blocks of any size and gives it back in chunks of nearly, never over, `target_s`.

    Every sample is in exactly one chunk, in order. Where a cut falls depends only on the samples from the start of
    its chunk to at most a second after the target, so the sizes of the blocks do not matter. Holds little more than
    one chunk and one block. One recording per splitter.
    """

    def __init__(self, target_s: float, sample_rate: int = SAMPLE_RATE) -> None:
        """Raises ValueError unless `target_s` is from 1 to 30 s."""
        if not MIN_TARGET_S <= target_s <= MAX_CHUNK_S:
            raise ValueError(f"target_s must be from {MIN_TARGET_S} to {MAX_CHUNK_S} s, not {target_s:g}")
        self._sample_rate = sample_rate
        self._hop = round(sample_rate * FRAME_S)
        self._target_samples = int(target_s * sample_rate)
        self._tail_samples = int(min(_MAX_TAIL_S, target_s / 4) * sample_rate)
        self._start_sample = 0
        self._blocks: list[Waveform] = []  # samples since the start of the chunk
        self._n_held = 0
        self._powers: list[Frames] = []  # of their whole frames
        self._unframed = np.zeros(0, np.float32)  # the samples after those frames

    def push(self, block: Waveform) -> list[Chunk]:
        """Take the next samples (n,) and return the chunks that are now decided."""
        self._blocks.append(block)
        self._n_held += len(block)
        unframed = np.concatenate([self._unframed, block]) if len(self._unframed) else block
        self._powers.append(frame_powers(unframed, self._hop))
        self._unframed = unframed[len(unframed) // self._hop * self._hop :].copy()
        return self._cut_while_longer_than(self._target_samples + self._tail_samples)

    def finish(self) -> list[Chunk]:
        """Return the remaining chunks: two at most, none if there is nothing left."""
        chunks = self._cut_while_longer_than(self._target_samples)
        if self._n_held:
            chunks.append(Chunk(_joined(self._blocks), self._start_sample, self._sample_rate))
        self._blocks, self._n_held, self._powers = [], 0, []
        return chunks

    def _cut_while_longer_than(self, limit_samples: int) -> list[Chunk]:
        if self._n_held <= limit_samples:
            return []
        waveform, powers = _joined(self._blocks), np.concatenate(self._powers)
        chunks = []
        while len(waveform) > limit_samples:
            cut = self._next_cut(len(waveform), powers)
            n_samples = cut.frame * self._hop
            chunks.append(Chunk(waveform[:n_samples], self._start_sample, self._sample_rate, cut.in_word))
            self._start_sample += n_samples
            waveform, powers = waveform[n_samples:], powers[cut.frame :]
        self._blocks, self._n_held, self._powers = [waveform], len(waveform), [powers]
        return chunks

    def _next_cut(self, n_held: int, powers: Frames) -> Cut:
        """Return where to end the chunk at the start of what is held, which is longer than the target."""
        n_seen = min(n_held, self._target_samples + self._tail_samples)
        latest = min(self._target_samples, n_seen - self._tail_samples) // self._hop
        earliest = max(1, int(self._target_samples * _EARLIEST_SHARE) // self._hop)
        return best_cut(powers[: n_seen // self._hop], earliest, latest)


def split_at_pauses(waveform: Waveform, sample_rate: int, target_s: float) -> list[Chunk]:
    """Return waveform (N,) in chunks of nearly, never over, `target_s` (1 to 30), cut in pauses where there are any.

    Raises: ValueError for another target.
    """
    splitter = PauseSplitter(target_s, sample_rate)
    return splitter.push(waveform) + splitter.finish()


def _joined(blocks: list[Waveform]) -> Waveform:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
