"""Turn what one decoder process writes into blocks of a second, mixed or with the channels apart."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ml.audio import verdict
from ml.audio.ffmpeg import MAX_TRACKS
from ml.audio.mixer import FULL_SCALE, Mixer
from ml.audio.packets import PacketParser, Samples
from ml.audio.process import Ending
from ml.audio.tracks import TrackAligner, of_one_language
from ml.audio.verdict import Outcome
from ml.interfaces import SAMPLE_RATE

_NOTICEABLE_S = 0.1

Block = NDArray[np.float32]  # (C, n)


class BlockMaker:
    """Makes blocks (C, n) of samples: one row of all channels mixed, or a row for each channel."""

    def __init__(self, separate_channels: bool) -> None:
        self._mixer = None if separate_channels else Mixer()
        self._n_samples = 0

    @property
    def duration_s(self) -> float:
        """Length of the blocks made, in seconds."""
        return self._n_samples / SAMPLE_RATE

    @property
    def warnings(self) -> list[str]:
        """What was altered."""
        return [verdict.ANTIPHASE_WARNING] if self._mixer and self._mixer.has_inverted else []

    def make(self, samples: Samples) -> Block:
        """Return the block of the next samples (C, n). Raises TooManyChannelsError."""
        self._n_samples += samples.shape[1]
        if self._mixer:
            return self._mixer.mix(samples)[None]
        if len(samples) > verdict.MAX_CHANNELS:
            raise verdict.too_many_channels(len(samples))
        return np.asarray(samples / np.float32(FULL_SCALE), np.float32)


class StreamReader:
    """Takes the bytes that a decoder writes and gives the blocks of all its tracks."""

    def __init__(self, separate_channels: bool) -> None:
        self._is_separate = separate_channels
        self._blocks = BlockMaker(separate_channels)
        self._parser = PacketParser()
        self._aligner: TrackAligner | None = None  # from the first packet on
        self._rows: list[int] = []  # those of the tracks that are read
        self._warnings: list[str] = []

    def push(self, data: bytes) -> Iterator[Block]:
        """Take the next bytes and yield the blocks that are now complete. Raises PacketError, TooManyChannelsError."""
        for packet in self._parser.feed(data):
            aligner = self._aligner or self._align()
            if packet.track < MAX_TRACKS:
                aligner.push(packet)
        yield from self._take(is_last=False)

    def finish(self) -> Iterator[Block]:
        """Yield the last blocks."""
        yield from self._take(is_last=True)

    def outcome(self, ending: Ending) -> Outcome:
        """Return what came of it; `ending` is how the decoder ended."""
        outcome = Outcome(ending, self._blocks.duration_s, warnings=[*self._warnings, *self._blocks.warnings])
        if self._aligner:
            outcome.gap_s = self._aligner.gap_s
            if self._aligner.late_s > _NOTICEABLE_S:
                outcome.warnings.append(verdict.LATE_WARNING)
        return outcome

    def _align(self) -> TrackAligner:
        tracks = self._parser.tracks
        if len(tracks) > MAX_TRACKS:
            self._warnings.append(verdict.TRACKS_WARNING)
        tracks = tracks[:MAX_TRACKS]
        self._aligner = TrackAligner(tracks)
        kept = list(range(len(tracks))) if self._is_separate else of_one_language(tracks)
        self._rows = self._aligner.rows(kept)
        if len(kept) < len(tracks):
            self._warnings.append(verdict.language_warning(tracks, kept))
        return self._aligner

    def _take(self, is_last: bool) -> Iterator[Block]:
        if self._aligner:
            for samples in self._aligner.take(is_last):
                yield self._blocks.make(samples if len(self._rows) == len(samples) else samples[self._rows])


def in_seconds(blocks: Iterable[Block]) -> Iterator[Block]:
    """Yield the same samples in blocks of exactly a second, but for the last; all have the rows of the first.

    Recordings joined in one file may differ in their channels: missing ones are silent, others are added to the rest.
    """
    waiting: list[Block] = []
    n_waiting, n_rows = 0, 0
    for block in blocks:
        n_rows = n_rows or len(block)
        waiting.append(block if len(block) == n_rows else _with_rows(block, n_rows))
        n_waiting += block.shape[1]
        while n_waiting >= SAMPLE_RATE:
            joined = waiting[0] if len(waiting) == 1 else np.concatenate(waiting, axis=1)
            yield joined[:, :SAMPLE_RATE]
            waiting, n_waiting = [joined[:, SAMPLE_RATE:]], n_waiting - SAMPLE_RATE
    if n_waiting:
        yield np.concatenate(waiting, axis=1)


def _with_rows(block: Block, n_rows: int) -> Block:
    fitted = np.zeros((n_rows, block.shape[1]), np.float32)
    for row, channel in enumerate(block):
        fitted[row % n_rows] += channel
    return np.asarray(fitted / max(1, -(-len(block) // n_rows)), np.float32)
