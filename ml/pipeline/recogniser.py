"""The type of a recogniser, from chunks to completions, and the recogniser over an engine."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from queue import Empty, SimpleQueue

from ml.audio.splitter import Chunk
from ml.engine.request import Retry
from ml.errors import DecodingCancelledError, EngineStoppedError
from ml.interfaces import Engine, RecognitionOptions
from ml.transcript import Completion

CANCEL_POLL_S = 0.05  # between two looks at the cancellation while a chunk is recognised

Recognise = Callable[[Iterator[Chunk], threading.Event, RecognitionOptions], Iterator[Completion]]
"""Turns chunks, which may overlap, into one completion each, in order. Ends early when the event is set."""


def recognise_with(engine: Engine, window: int) -> Recognise:
    """A recogniser that keeps up to `window` chunks of a recording in the engine at once.

    It reads chunks on its own thread, so that a completion need not wait for the next chunk to be decoded.
    """

    def recognise(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        ahead = _ReadAhead(engine, window, options, chunks, cancelled)
        try:
            for future in ahead.futures():
                yield _wait(future, cancelled)
        except BaseException:
            if not ahead.ended:
                cancelled.set()  # ends the wait for the next chunk
            raise
        finally:
            ahead.close()

    return recognise


class _ReadAhead:
    """Submits the chunks of one recording to the engine. Close it after `ended`, or once `cancelled` is set."""

    def __init__(
        self,
        engine: Engine,
        window: int,
        options: RecognitionOptions,
        chunks: Iterator[Chunk],
        cancelled: threading.Event,
    ) -> None:
        self._engine = engine
        self._options = options
        self._chunks = chunks
        self._cancelled = cancelled
        self.ended = False  # nothing more will be submitted
        self._free = threading.Semaphore(window)
        self._futures: SimpleQueue[Future[Completion] | None] = SimpleQueue()  # None for the end
        context = contextvars.copy_context()  # with the request id for the logs
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="read-ahead")
        self._thread.start()

    def futures(self) -> "Iterator[Future[Completion]]":
        """The futures of the submitted chunks, in order; reading the next one lets another chunk be submitted."""
        while future := self._futures.get():
            yield future
            self._free.release()

    def close(self) -> None:
        """End the thread and evict its chunks from the engine."""
        while self._thread.is_alive():
            self._cancel_all()  # the engine may block the thread until there are fewer
            self._thread.join(CANCEL_POLL_S)
        self._cancel_all()

    def _run(self) -> None:
        # Recordings take turns in the engine; the event is that of the recording.
        recording_id = Retry(self._cancelled) if self._options.again else self._cancelled
        try:
            for chunk in self._chunks:
                while not self._free.acquire(timeout=CANCEL_POLL_S):
                    if self._cancelled.is_set():
                        raise DecodingCancelledError
                self._futures.put(self._engine.submit(chunk.waveform, recording_id, self._options))
            self.ended = True
            self._futures.put(None)
        except BaseException as error:
            self.ended = True
            self._futures.put(_failed(error))

    def _cancel_all(self) -> None:
        with suppress(Empty):
            while True:
                if future := self._futures.get_nowait():
                    future.cancel()


def _failed(error: BaseException) -> "Future[Completion]":
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future


def _wait(future: "Future[Completion]", cancelled: threading.Event) -> Completion:
    while True:
        try:
            return future.result(timeout=CANCEL_POLL_S)
        except FutureTimeoutError:
            if cancelled.is_set():
                future.cancel()
                raise DecodingCancelledError from None
        except CancelledError:
            raise EngineStoppedError from None
