"""The way through: a file is decoded, split at pauses, recognised and joined to one transcript."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from ml.audio.decoding import AudioDecoder
from ml.audio.splitting import Chunk, PauseSplitter
from ml.errors import DecodingCancelledError

CANCEL_POLL_S = 0.05  # how soon a cancellation is noticed while a chunk is being recognised

Waveform = npt.NDArray[np.float32]
Recognise = Callable[[Iterator[Chunk], threading.Event], Iterator[str]]
"""Chunks in, their texts out, in the same order and one for each; ends early when the event is set."""


class Engine(Protocol):
    """Whatever recognises single chunks in its own time."""

    def submit(self, waveform: Waveform, owner: object) -> "Future[str]":
        """Queues a waveform (N,) of at most 30 s of the recording `owner`; waits while that has too many waiting."""


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording."""

    text: str
    audio_duration_s: float
    warnings: tuple[str, ...] = ()  # for a person, such as "the file is damaged after 9.9 s"


@dataclass(frozen=True)
class Pipeline:
    """Turns files into transcripts with one decoder, one chunk length and one recogniser."""

    decoder: AudioDecoder
    chunk_duration_s: float
    recognise: Recognise

    def transcribe(
        self,
        source: BinaryIO,
        *,
        pcm_sample_rate: int | None = None,
        cancelled: threading.Event | None = None,
        on_progress: Callable[[float], None] = lambda recognised_s: None,
    ) -> Transcript:
        """Transcribes the seekable file `source`; `pcm_sample_rate` (Hz) says that it is raw PCM.

        `on_progress` hears how many seconds of audio are recognised so far.

        Raises:
            SpeechError: see ml/errors.py.
        """
        cancelled = cancelled or threading.Event()
        with self.decoder.open(source, pcm_sample_rate=pcm_sample_rate, cancelled=cancelled) as decoding:
            ends_s: deque[float] = deque()
            texts = []
            for text in self.recognise(_note_ends(self._chunks(decoding), ends_s), cancelled):
                texts.append(text)
                on_progress(ends_s.popleft())
            return Transcript(join(texts), decoding.duration_s, decoding.warnings)

    def _chunks(self, blocks: Iterable[Waveform]) -> Iterator[Chunk]:
        splitter = PauseSplitter(self.chunk_duration_s)
        for block in blocks:
            yield from splitter.push(block)
        yield from splitter.finish()


def _note_ends(chunks: Iterator[Chunk], ends_s: deque[float]) -> Iterator[Chunk]:
    for chunk in chunks:
        ends_s.append(chunk.end_s)
        yield chunk


def join(texts: list[str]) -> str:
    """Joins the chunks' texts to one; chunks in which nothing is said leave no trace."""
    return " ".join(stripped for text in texts if (stripped := text.strip()))


def recognise_with(engine: Engine, window: int) -> Recognise:
    """A recogniser that keeps up to `window` chunks of a recording in the engine at once."""

    def recognise(chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        pending: deque[Future[str]] = deque()
        owner = object()  # recordings take turns in the engine
        try:
            for chunk in chunks:
                pending.append(engine.submit(chunk.waveform, owner))
                while len(pending) >= window:
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
            raise DecodingCancelledError("Распознавание остановлено") from None
