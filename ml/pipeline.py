"""The way through: a file is decoded, split at pauses, recognised and joined to one transcript."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from ml.audio.decoding import AudioDecoder, Decoding
from ml.audio.presence import may_hold_speech
from ml.audio.splitting import Chunk, PauseSplitter
from ml.errors import DecodingCancelledError, EngineStoppedError
from ml.transcript import Segment, StageTimes, Status, Transcript

CANCEL_POLL_S = 0.05  # how soon a cancellation is noticed while a chunk is being recognised

T = TypeVar("T")
Waveform = npt.NDArray[np.float32]
Recognise = Callable[[Iterator[Chunk], threading.Event], Iterator[str]]
"""Chunks in, their texts out, in the same order and one for each; ends early when the event is set."""
OnSegment = Callable[[Segment], None]


class Engine(Protocol):
    """Whatever recognises single chunks in its own time."""

    def submit(self, waveform: Waveform, owner: object) -> "Future[str]":
        """Queues a waveform (N,) of at most 30 s of the recording `owner`; waits while that has too many waiting."""


@dataclass(frozen=True)
class Pipeline:
    """Turns recordings into transcripts with one decoder, one chunk length and one recogniser."""

    decoder: AudioDecoder
    chunk_duration_s: float
    recognise: Recognise

    def transcribe(
        self,
        source: BinaryIO,
        *,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        on_segment: OnSegment = lambda segment: None,
    ) -> Transcript:
        """Transcribes the seekable file `source`; `pcm_sample_rate` (Hz) says that it is raw PCM.

        `on_segment` hears of every segment as soon as its text is there.

        Raises:
            SpeechError: see ml/errors.py.
        """
        cancelled = cancelled or threading.Event()
        with self.decoder.open(source, pcm_sample_rate=pcm_sample_rate, cancelled=cancelled) as decoding:
            return self.run(decoding, cancelled, on_segment)

    def run(self, decoding: Decoding, cancelled: threading.Event, on_segment: OnSegment) -> Transcript:
        """Transcribes what comes out of a decoding that has been started."""
        run = _Run(self.chunk_duration_s)
        segments = []
        for text in chain(run.timed(self.recognise(run.chunks(decoding), cancelled)), [None]):
            for segment in run.segments(text):
                segments.append(segment)
                on_segment(segment)
        return Transcript(tuple(segments), decoding.duration_s, decoding.warnings, run.stages())


class _Run:
    """Keeps the books of one recording: where the chunks are that have no text yet, and where the time goes."""

    def __init__(self, chunk_duration_s: float) -> None:
        self._splitter = PauseSplitter(chunk_duration_s)
        self._pending: deque[Segment] = deque()  # those under way, still without their texts
        self._decode_s = self._split_s = self._all_s = 0.0

    def chunks(self, blocks: Iterable[Waveform]) -> Iterator[Chunk]:
        """The chunks of decoded blocks that may hold speech; all are noted."""
        iterator = iter(blocks)
        while True:
            started_s = time.perf_counter()
            block = next(iterator, None)
            decoded_s = time.perf_counter()
            chunks = self._splitter.finish() if block is None else self._splitter.push(block)
            self._decode_s += decoded_s - started_s
            self._split_s += time.perf_counter() - decoded_s
            for chunk in chunks:
                speech = may_hold_speech(chunk.waveform)
                status = Status.TRANSCRIBED if speech else Status.SILENCE
                self._pending.append(Segment(chunk.start_s, chunk.end_s, "", status))
                if speech:
                    yield chunk
            if block is None:
                return

    def timed(self, texts: Iterator[str]) -> Iterator[str]:
        """The texts, with the time spent waiting for them."""
        while True:
            started_s = time.perf_counter()
            text = next(texts, None)
            self._all_s += time.perf_counter() - started_s
            if text is None:
                return
            yield text

    def segments(self, text: str | None) -> Iterator[Segment]:
        """The silences up to the next chunk, and that with its text; None for the text says that there is none left."""
        while self._pending and self._pending[0].status is Status.SILENCE:
            yield self._pending.popleft()
        if text is not None:
            yield replace(self._pending.popleft(), text=text.strip())

    def stages(self) -> StageTimes:
        """Where the time went; decoding and splitting run inside the recogniser's wait for chunks."""
        return StageTimes(self._decode_s, self._split_s, self._all_s - self._decode_s - self._split_s)


def recognise_with(engine: Engine, window: int) -> Recognise:
    """A recogniser that keeps up to `window` chunks of a recording in the engine at once."""

    def recognise(chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        pending: deque[Future[str]] = deque()
        owner = object()  # recordings take turns in the engine
        try:
            for chunk in chunks:
                pending.append(engine.submit(chunk.waveform, owner))
                while pending and (len(pending) >= window or pending[0].done()):
                    yield _wait(pending.popleft(), cancelled)
            while pending:
                yield _wait(pending.popleft(), cancelled)
        finally:
            for future in pending:
                future.cancel()

    return recognise


def _wait(future: "Future[str]", cancelled: threading.Event) -> str:
    while True:
        try:
            return future.result(timeout=CANCEL_POLL_S)
        except FutureTimeoutError:
            if cancelled.is_set():
                future.cancel()
                raise DecodingCancelledError("Запрос отменён") from None
        except CancelledError:
            raise EngineStoppedError("Распознавание остановлено: повторите запрос позже.") from None
