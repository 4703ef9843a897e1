"""Decode an untrusted recording, second by second, into 16 kHz waveforms."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ml.audio import verdict
from ml.audio.containers import HEAD_BYTES
from ml.audio.ffmpeg import check_pcm_sample_rate
from ml.audio.highpass import HighPass
from ml.audio.intake import Intake, scan
from ml.audio.process import DecoderChild
from ml.audio.reader import Block, in_seconds
from ml.audio.recording import RecordingDecoder, read_at
from ml.audio.truncation import statement
from ml.audio.verdict import Verdict
from ml.errors import DecodingCancelledError
from ml.interfaces import SAMPLE_RATE, Waveform

# Offset and infrasound disturb the model and carry no speech; above 60 Hz at most 0.05 dB is taken off.
_LOW_CUT_HZ, _LOW_CUT_ORDER = 20, 2
_FILTER_FRAME_SAMPLES = 40  # computes fastest
_POLL_S = 0.05


@dataclass(frozen=True)
class AudioDecoder:
    """How recordings are decoded; one serves any number of threads.

    ffmpeg: the program, from `find_ffmpeg`
    max_duration_s: a longer recording is refused
    timeout_s: limit of the time spent waiting for a recording's decoder, and of its processor time
    """

    ffmpeg: Path
    max_duration_s: float
    timeout_s: float

    @contextmanager
    def open(
        self,
        source: IO[bytes],
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        separate_channels: bool = False,
    ) -> Iterator["Decoding"]:
        """Yield a `Decoding` of the whole of `source`; its process ends with the block.

        `source` is a seekable file with a descriptor, at any position; leave it alone until the block ends. With
        `pcm_sample_rate` (Hz) it is raw 16-bit little-endian mono PCM, unless it begins as a known container does.
        Setting `cancelled` ends the decoding. With `separate_channels` the channels are not mixed.

        Raises: EmptyAudioError, InvalidSampleRateError.
        """
        descriptor = source.fileno()
        source.flush()
        if os.fstat(descriptor).st_size == 0:
            raise verdict.empty()
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        with self.open_pipe(pcm_sample_rate, cancelled, separate_channels) as decoding:
            decoding.end(source)
            try:
                yield decoding
            finally:
                decoding.close()
                os.lseek(descriptor, position, os.SEEK_SET)

    @contextmanager
    def open_pipe(
        self,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        separate_channels: bool = False,
    ) -> Iterator["Decoding"]:
        """Yield a `Decoding` of a recording that is still to come: `feed` it from another thread, then `end` it.

        Raises: InvalidSampleRateError.
        """
        check_pcm_sample_rate(pcm_sample_rate)
        decoding = Decoding(self, pcm_sample_rate, cancelled or threading.Event(), separate_channels)
        try:
            yield decoding
        finally:
            decoding.close()

    def decode_all(
        self, source: IO[bytes], pcm_sample_rate: int | None = None, cancelled: threading.Event | None = None
    ) -> Waveform:
        """Return the whole waveform (N,) at once: 3.8 MB a minute. Raises as `open` and `Decoding` do."""
        with self.open(source, pcm_sample_rate, cancelled) as decoding:
            return np.concatenate(list(decoding))


class Decoding:
    """A recording being decoded: iterate over it, once, for float32 blocks in [-1, 1], a second each at most.

    A block is (n,), or (C, n) with the channels apart. A file may hold several recordings, one after another: the first
    is decoded from the pipe while it is fed; what cannot be read that way, and all others, once the file is whole.

    Iterating raises EmptyAudioError, UndecodableAudioError, AudioTooLongError, TooManyChannelsError,
    DecodingCancelledError or DecoderUnavailableError.
    """

    def __init__(
        self, decoder: AudioDecoder, pcm_sample_rate: int | None, cancelled: threading.Event, separate_channels: bool
    ) -> None:
        self._max_duration_s = decoder.max_duration_s
        self._is_pcm = pcm_sample_rate is not None
        self._cancelled = cancelled
        self._is_separate = separate_channels
        self._recordings = RecordingDecoder(
            decoder.ffmpeg, decoder.max_duration_s, decoder.timeout_s, pcm_sample_rate, separate_channels, cancelled
        )
        self._intake = Intake(self._is_pcm)
        self._live: DecoderChild | None = None  # decodes the first recording while it is fed
        self._source: IO[bytes] | None = None
        self._has_begun, self._has_source, self._is_closed = threading.Event(), threading.Event(), threading.Event()
        self._n_samples = 0
        self._verdict = Verdict()
        self._warnings: tuple[str, ...] = ()
        self._blocks = self._run()
        self._primed: list[Block] = []

    @property
    def duration_s(self) -> float:
        """Length of the sound yielded so far, in seconds."""
        return self._n_samples / SAMPLE_RATE

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was lost or altered; complete after the last block."""
        return self._warnings

    @property
    def channels(self) -> int:
        """The rows of the blocks, 1 unless channels are apart. Waits for the first sound and raises as iterating."""
        if self._is_separate and not self._primed:
            self._primed.append(next(self._blocks))
        return len(self._primed[0]) if self._is_separate else 1

    @property
    def waited_s(self) -> float:
        """Time spent waiting for decoders so far, in seconds: what the time limit bounds."""
        return self._recordings.waited_s

    @property
    def pid(self) -> int:
        """Process id of the last decoder started, for logs and tests; 0 before the first."""
        return self._recordings.pid

    def feed(self, data: bytes) -> bool:
        """Hand over the next bytes of a recording opened by `open_pipe`; False once the decoder reads no more.

        Raises: DecoderUnavailableError.
        """
        if self._intake.is_over:
            return False
        is_read = self._feed_live(self._intake.push(data))
        if self._live and self._intake.is_over:
            self._live.end_input()
        return is_read

    def end(self, source: IO[bytes]) -> None:
        """State that all of it has come; `source` is a seekable file that holds it, to be left alone from now on.

        Raises: DecoderUnavailableError.
        """
        if self._intake.has_begun and not self._intake.is_over:
            self._feed_live(self._intake.finish())
        if self._live:
            self._live.end_input()
        source.flush()
        self._source = source
        self._has_source.set()
        self._has_begun.set()

    def close(self) -> None:
        """End the decoder if it still runs. May be called from any thread, and again."""
        self._is_closed.set()
        self._recordings.close()

    def __iter__(self) -> Iterator[Block]:
        while self._primed:
            yield self._primed.pop()
        yield from self._blocks

    def _feed_live(self, data: bytes) -> bool:
        if not data:
            return True
        if self._live is None:
            try:
                self._live = self._recordings.start(self._intake.container)
            except DecodingCancelledError:  # closed: nothing is read any more
                return False
            self._has_begun.set()
        return self._live.feed(data)

    def _run(self) -> Iterator[Block]:
        """Yield the blocks without offset and infrasound; conclude with the warnings."""
        high_pass = HighPass(_LOW_CUT_HZ, _LOW_CUT_ORDER, SAMPLE_RATE, _FILTER_FRAME_SAMPLES)
        for block in in_seconds(self._sound()):
            self._n_samples += block.shape[1]
            if self.duration_s > self._max_duration_s:
                self.close()
                raise verdict.too_long(self._max_duration_s)
            filtered = np.clip(high_pass.push(block), -1, 1).astype(np.float32)
            yield filtered if self._is_separate else filtered[0]
        self._warnings = self._verdict.conclude()

    def _sound(self) -> Iterator[Block]:
        """Yield what all recordings hold, as blocks (C, n), and judge each."""
        self._wait_for(self._has_begun)
        first = (yield from self._recordings.read(self._live)) if self._live else None
        self._wait_for(self._has_source)
        assert self._source
        descriptor = self._source.fileno()
        if os.fstat(descriptor).st_size == 0:
            raise verdict.empty()
        layout = scan(descriptor, self._is_pcm)
        for number, part in enumerate(layout.parts):
            outcome = yield from self._recordings.decode(self._source, part, None if number else first)
            stated = statement(lambda offset, n_bytes: read_at(descriptor, offset, n_bytes), part)
            self._verdict.add(outcome, stated, read_at(descriptor, part.start, HEAD_BYTES))
        if layout.has_more:
            self._verdict.warn(verdict.PARTS_WARNING)

    def _wait_for(self, event: threading.Event) -> None:
        while not event.wait(_POLL_S):
            if self._cancelled.is_set() or self._is_closed.is_set():
                raise verdict.cancelled()
