"""Put the samples of a recording's tracks side by side, by their times."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from ml.audio.packets import Packet, Samples, Track
from ml.interfaces import SAMPLE_RATE

BLOCK_SAMPLES = SAMPLE_RATE  # a second
_MAX_DRIFT_SAMPLES = SAMPLE_RATE // 5  # times in a file are as coarse as that; a longer gap is a pause of the track
_SLACK_SAMPLES = SAMPLE_RATE // 2  # the decoder sorts its packets by time, but those of 0.1 s begin earlier
_PER_MS = SAMPLE_RATE // 1000


class TrackAligner:
    """Takes packets and gives blocks of all channels of all tracks.

    A single track is taken as it comes, whatever its times. Of several, one that begins later or has gaps is filled up
    with silence.
    """

    def __init__(self, tracks: list[Track]) -> None:
        self._tracks = tracks
        self._pieces: list[deque[tuple[int, Samples]]] = [deque() for _ in tracks]  # with their first sample's place
        self._ends = [0] * len(tracks)  # of the samples placed so far
        self._counts = [0] * len(tracks)
        self._offsets: list[tuple[int, int] | None] = [None] * len(tracks)  # first and last: time less samples so far
        self._ready = 0  # all samples before it are there
        self._given = 0
        self._late_samples = 0

    @property
    def n_channels(self) -> int:
        """Rows of the blocks."""
        return sum(track.channels for track in self._tracks)

    @property
    def late_s(self) -> float:
        """Sound that came too late to be put where it belongs, in seconds."""
        return self._late_samples / SAMPLE_RATE

    @property
    def gap_s(self) -> float:
        """How much longer the times of the first track say it is than the samples that came, in seconds."""
        offsets = self._offsets[0] if self._offsets else None
        return max(0, offsets[1] - offsets[0]) / SAMPLE_RATE if offsets else 0.0

    def push(self, packet: Packet) -> None:
        """Take the next packet."""
        track, n_samples = packet.track, packet.samples.shape[1]
        place = packet.time_ms * _PER_MS
        offset = place - self._counts[track]
        self._counts[track] += n_samples
        first = self._offsets[track]
        self._offsets[track] = (first[0] if first else offset, offset)
        start = self._ends[track]
        if len(self._tracks) > 1 and place - start > _MAX_DRIFT_SAMPLES:
            start = place
        self._ends[track] = start + n_samples
        n_late = min(max(0, self._given - start), n_samples)
        self._late_samples += n_late
        self._pieces[track].append((start + n_late, packet.samples[:, n_late:]))
        self._ready = max(self._ready, place - _SLACK_SAMPLES) if len(self._tracks) > 1 else self._ends[0]

    def take(self, is_last: bool = False) -> Iterator[Samples]:
        """Yield the blocks (C, n) that are complete, a second each; with `is_last` also the rest."""
        if is_last:
            self._ready = max(self._ends, default=0)
        while self._ready - self._given >= BLOCK_SAMPLES or (is_last and self._ready > self._given):
            end = min(self._given + BLOCK_SAMPLES, self._ready)
            block = np.zeros((self.n_channels, end - self._given), np.int16)
            row = 0
            for pieces, track in zip(self._pieces, self._tracks, strict=True):
                _fill(block[row : row + track.channels], pieces, self._given)
                row += track.channels
            self._given = end
            yield block

    def rows(self, tracks: list[int]) -> list[int]:
        """Return the rows of the blocks that hold these tracks."""
        ends = np.cumsum([track.channels for track in self._tracks]).tolist()
        return [row for track in tracks for row in range(ends[track] - self._tracks[track].channels, ends[track])]


def of_one_language(tracks: list[Track]) -> list[int]:
    """Return the tracks in the language of the first, if each has one and they differ; else all of them.

    Translations of one another cannot be mixed. Tracks of several speakers have no language, or the same.
    """
    languages = [track.language for track in tracks]
    if "und" in languages or len(set(languages)) < 2:
        return list(range(len(tracks)))
    return [index for index, language in enumerate(languages) if language == languages[0]]


def _fill(rows: Samples, pieces: deque[tuple[int, Samples]], begin: int) -> None:
    """Copy to rows (C, n) the pieces that belong at `begin`, and drop what was copied."""
    end = begin + rows.shape[1]
    while pieces and pieces[0][0] < end:
        start, samples = pieces.popleft()
        n_fitting = min(samples.shape[1], end - start)
        rows[:, start - begin : start - begin + n_fitting] = samples[:, :n_fitting]
        if n_fitting < samples.shape[1]:
            pieces.appendleft((end, samples[:, n_fitting:]))
