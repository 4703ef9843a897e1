"""Decode one recording of a file, in whichever way gives its sound."""

import math
import os
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from ml.audio import verdict
from ml.audio.ffmpeg import MAX_TRACKS, decode_command
from ml.audio.limits import ChildLimits
from ml.audio.packets import PacketError
from ml.audio.parts import Part
from ml.audio.process import DecoderChild
from ml.audio.reader import Block, BlockMaker, StreamReader
from ml.audio.verdict import Outcome
from ml.interfaces import SAMPLE_RATE

PCM = "pcm"
_PIECE_BYTES = 64 * 1024
_BLOCK_BYTES = 2 * SAMPLE_RATE  # a second of 16-bit samples
_MAY_NEED_SEEKING = frozenset(("mp4", "caf", "aiff", "matroska", "asf"))  # their elements come in any order


class RecordingDecoder:
    """Starts the decoder processes of one file, one after another, within one time limit."""

    def __init__(
        self,
        ffmpeg: Path,
        max_duration_s: float,
        timeout_s: float,
        pcm_sample_rate: int | None,
        separate_channels: bool,
        cancelled: threading.Event,
    ) -> None:
        self._ffmpeg = ffmpeg
        self._max_duration_s = max_duration_s
        self._timeout_s = timeout_s
        self._pcm_sample_rate = pcm_sample_rate
        self._is_separate = separate_channels
        self._cancelled = cancelled
        self._lock = threading.Lock()  # starting against closing
        self._is_closed = False
        self._child: DecoderChild | None = None  # the last one started
        self._waited_s = 0.0  # for those before it

    @property
    def waited_s(self) -> float:
        """Time spent waiting for decoders so far, in seconds: what the time limit bounds."""
        return self._waited_s + (self._child.waited_s if self._child else 0.0)

    @property
    def pid(self) -> int:
        """Process id of the last decoder started; 0 before the first."""
        return self._child.pid if self._child else 0

    def start(
        self,
        container: str,
        source: IO[bytes] | None = None,
        without: Iterable[int] = (),
        max_tracks: int = MAX_TRACKS,
    ) -> DecoderChild:
        """Start a decoder that reads `source`, or a pipe; `without` and `max_tracks` as for `decode_command`.

        Raises: DecoderUnavailableError, DecodingCancelledError.
        """
        pcm_sample_rate = self._pcm_sample_rate if container == PCM else None
        command = decode_command(self._ffmpeg, self._max_duration_s, pcm_sample_rate, without, max_tracks)
        limits = ChildLimits(cpu_s=math.ceil(self._timeout_s))
        with self._lock:
            if self._is_closed or self._cancelled.is_set():
                raise verdict.cancelled()
            self._waited_s = self.waited_s
            self._child = None
            rest_s = self._timeout_s - self._waited_s
            self._child = DecoderChild(command, source, rest_s, limits, self._cancelled)
            return self._child

    def close(self) -> None:
        """End the decoder that runs, and start no other. May be called from any thread, and again."""
        with self._lock:
            self._is_closed = True
            if self._child:
                self._child.close()

    def decode(self, source: IO[bytes], part: Part, outcome: Outcome | None) -> Generator[Block, None, Outcome]:
        """Yield the blocks of one recording in `source`, and return what came of it.

        `outcome` is what came of reading it from the pipe, if that was done while it arrived.

        Raises: UndecodableAudioError, TooManyChannelsError, DecodingCancelledError, DecoderUnavailableError.
        """
        if outcome is None and self._is_plain(part):
            return (yield from self._read_plain(source.fileno(), part))
        is_from_file = part.needs_file
        if outcome is None and not is_from_file:
            outcome = yield from self._attempt(source, part, is_from_file)
        if outcome is None or (not outcome.duration_s and part.container in _MAY_NEED_SEEKING):
            is_from_file = True
            outcome = yield from self._attempt(source, part, is_from_file)
        ending = outcome.ending
        if outcome.duration_s or not ending or not (ending.bad_streams or ending.out_of_memory):
            return outcome
        max_tracks = 1 if ending.out_of_memory else MAX_TRACKS
        retried = yield from self._attempt(source, part, is_from_file, ending.bad_streams, max_tracks)
        retried.warnings.append(verdict.FIRST_TRACK_WARNING if ending.out_of_memory else verdict.CODEC_WARNING)
        return retried if retried.duration_s else outcome

    def read(self, child: DecoderChild) -> Generator[Block, None, Outcome]:
        """Yield the blocks that a decoder gives, and return what came of it. Raises as `decode`."""
        reader = StreamReader(self._is_separate)
        try:
            while data := child.read(_PIECE_BYTES):
                yield from reader.push(data)
            yield from reader.finish()
            ending = child.finish()
        except PacketError as error:
            raise verdict.broken_down() from error
        finally:
            child.close()
        verdict.check(ending, self._timeout_s)
        return reader.outcome(ending)

    def _attempt(
        self,
        source: IO[bytes],
        part: Part,
        is_from_file: bool,
        without: Iterable[int] = (),
        max_tracks: int = MAX_TRACKS,
    ) -> Generator[Block, None, Outcome]:
        if is_from_file:
            with _as_file(source, part) as file:
                return (yield from self.read(self.start(part.container, file, without, max_tracks)))
        child = self.start(part.container, None, without, max_tracks)
        feeder = threading.Thread(target=_feed, args=(child, source.fileno(), part), name="decoder-feed", daemon=True)
        try:
            feeder.start()
            return (yield from self.read(child))
        finally:
            child.close()
            if feeder.ident is not None:
                feeder.join()

    def _is_plain(self, part: Part) -> bool:
        """Whether it is 16 kHz mono 16-bit samples, for which no decoder is needed."""
        return part.samples_at >= 0 or (part.container == PCM and self._pcm_sample_rate == SAMPLE_RATE)

    def _read_plain(self, descriptor: int, part: Part) -> Generator[Block, None, Outcome]:
        blocks = BlockMaker(self._is_separate)
        at = max(part.samples_at, part.start)
        while at < part.end:
            if self._cancelled.is_set():
                raise verdict.cancelled()
            data = read_at(descriptor, at, min(_BLOCK_BYTES, part.end - at))
            if len(data) < 2:
                break
            at += len(data)
            yield blocks.make(np.frombuffer(data, "<i2", count=len(data) // 2)[None])
        return Outcome(duration_s=blocks.duration_s)


def read_at(descriptor: int, offset: int, n_bytes: int) -> bytes:
    """Return bytes of a file; fewer only at its end. Moves its position."""
    os.lseek(descriptor, offset, os.SEEK_SET)
    pieces = []
    while n_bytes > 0 and (piece := os.read(descriptor, n_bytes)):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def _feed(child: DecoderChild, descriptor: int, part: Part) -> None:
    """Give a decoder the bytes of `part`, until it reads no more."""
    at, data = part.start, part.prefix or read_at(descriptor, part.start, min(_PIECE_BYTES, part.end - part.start))
    at += 0 if part.prefix else len(data)
    while data and child.feed(data):
        data = read_at(descriptor, at, min(_PIECE_BYTES, part.end - at))
        at += len(data)
    child.end_input()


@contextmanager
def _as_file(source: IO[bytes], part: Part) -> Iterator[IO[bytes]]:
    """Yield a file that holds only `part`: places in it are counted from its own beginning."""
    descriptor = source.fileno()
    if part.start == 0 and part.end == os.fstat(descriptor).st_size:
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield source
        return
    with tempfile.TemporaryFile() as file:
        for at in range(part.start, part.end, _PIECE_BYTES):
            file.write(read_at(descriptor, at, min(_PIECE_BYTES, part.end - at)))
        file.seek(0)
        yield file
