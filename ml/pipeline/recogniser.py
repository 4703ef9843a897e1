"""How chunks become texts: the shape every recogniser has, and the one over an engine."""

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from queue import Empty, SimpleQueue

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError, EngineStoppedError
from ml.interfaces import Engine, RecognitionOptions
from ml.transcript import Completion

CANCEL_POLL_S = 0.05  # how soon a cancellation is noticed while a chunk is being recognised

Recognise = Callable[[Iterator[Chunk], threading.Event, RecognitionOptions], Iterator[Completion]]
"""Chunks, which may overlap, in; one completion for each out, in order. Ends early when the event is set."""


def recognise_with(engine: Engine, window: int) -> Recognise:
    """A recogniser that keeps up to `window` chunks of a recording in the engine at once.

    It reads ahead on a thread of its own, so that a text is handed on once it is there, though the next chunk is not.
    """

    def recognise(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        ahead = _Ahead(engine, window, options, chunks, cancelled)
        try:
            for future in ahead.futures():
                yield _wait(future, cancelled)
        except BaseException:
            if not ahead.ended:
                cancelled.set()  # ends the wait for the next chunk: nobody wants it any more
            raise
        finally:
            ahead.close()

    return recognise


class _Ahead:
    """Submits the chunks of one recording to the engine. To be closed; before `ended`, once `cancelled` is set."""

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
        self._room = threading.Semaphore(window)
        self._futures: SimpleQueue[Future[Completion] | None] = SimpleQueue()  # None for the end
        context = contextvars.copy_context()  # the request's id goes with it into the logs
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="read-ahead")
        self._thread.start()

    def futures(self) -> "Iterator[Future[Completion]]":
        """What was submitted, in order; reading the next one makes room for another."""
        while future := self._futures.get():
            yield future
            self._room.release()

    def close(self) -> None:
        """Ends the thread and takes what is still in the engine out of it."""
        while self._thread.is_alive():
            self._drop_all()  # the engine may be holding the thread back until there are fewer
            self._thread.join(CANCEL_POLL_S)
        self._drop_all()

    def _run(self) -> None:
        recording_id = object()  # recordings take turns in the engine
        try:
            for chunk in self._chunks:
                while not self._room.acquire(timeout=CANCEL_POLL_S):
                    if self._cancelled.is_set():
                        raise DecodingCancelledError
                self._futures.put(self._engine.submit(chunk.waveform, recording_id, self._options))
            self.ended = True
            self._futures.put(None)
        except BaseException as error:
            self.ended = True
            self._futures.put(_failed(error))

    def _drop_all(self) -> None:
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
