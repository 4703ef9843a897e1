"""How chunks become texts: the shape every recogniser has, and the one over an engine."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ml.audio.splitting import Chunk
from ml.errors import DecodingCancelledError, EngineStoppedError

CANCEL_POLL_S = 0.05  # how soon a cancellation is noticed while a chunk is being recognised

Waveform = npt.NDArray[np.float32]
Recognise = Callable[[Iterator[Chunk], threading.Event], Iterator[str]]
"""Chunks in, their texts out, in the same order and one for each; ends early when the event is set."""


class Engine(Protocol):
    """Whatever recognises single chunks in its own time."""

    def submit(self, waveform: Waveform, owner: object, sampled: bool = False) -> "Future[str]":
        """Queues a waveform (N,) of at most 30 s of the recording `owner`; waits while that has too many waiting."""


def recognise_with(engine: Engine, window: int, sampled: bool = False) -> Recognise:
    """A recogniser that keeps up to `window` chunks of a recording in the engine at once."""

    def recognise(chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        pending: deque[Future[str]] = deque()
        owner = object()  # recordings take turns in the engine
        try:
            for chunk in chunks:
                pending.append(engine.submit(chunk.waveform, owner, sampled))
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
