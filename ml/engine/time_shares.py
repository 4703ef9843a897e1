"""How continuous batching divides the device's time between encoding and decoding, new recordings and the others."""

from collections.abc import Collection, Container, Hashable

DECODE_SHARE = 0.25  # least share of the time for prefill and decode steps, while a recording waits for its text
URGENT_SHARE = 0.75  # the same while an urgent sequence is in decoding
OVERTAKING_SHARE = 0.75  # most of the encoder's time for new recordings that overtake others
MAX_SEEN = 4096  # recordings remembered


class TimeShares:
    """Seconds spent on encoding and on decoding, by which the scheduler decides what comes next."""

    def __init__(self) -> None:
        self.owed_s = 0.0  # encoder time that the others get before a recording overtakes them again
        self._encoded_s = 0.0  # what the last encoder batch took
        self._decoded_s = 0.0  # its prefill and the decode steps since then

    def begin_batch(self) -> None:
        """A new encoder batch begins."""
        self._encoded_s = self._decoded_s = 0.0

    def add_encoding(self, duration_s: float) -> None:
        """Part of an encoder batch is computed."""
        self._encoded_s += duration_s

    def add_decoding(self, duration_s: float) -> None:
        """A prefill or a decode step is done."""
        self._decoded_s += duration_s

    def add_turn(self, duration_s: float, overtakes: bool) -> None:
        """A batch, which may have overtaken others, had the encoder for `duration_s`, its prefill included."""
        if overtakes:
            self.owed_s += duration_s * (1 - OVERTAKING_SHARE) / OVERTAKING_SHARE
        else:
            self.owed_s = max(0.0, self.owed_s - duration_s)

    def has_decoded(self, share: float) -> bool:
        """Whether decoding has had its `share` (0 to 1) of the time since the last encoder batch began."""
        return self._decoded_s >= self._encoded_s * share / (1 - share)


class SeenRecordings:
    """The recordings admitted lately: the first chunk of a recording is urgent."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, None] = {}  # in order of admission

    def is_urgent(self, recording: Hashable, admitted: Collection[Hashable], waiting: Container[Hashable]) -> bool:
        """Whether a chunk of `recording` is its first of all, or the only one that it has beside other recordings.

        `admitted` are the recordings with chunks in flight, `waiting` those with chunks in the queue. The recording
        counts as seen from now on.
        """
        is_first = recording not in self._seen
        self._seen[recording] = None
        if len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        is_only = recording not in admitted and recording not in waiting
        return is_first or (is_only and bool(admitted))
