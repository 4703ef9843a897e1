"""Ends calls whose other side neither sends nor takes anything, so that they give their threads back."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

T = TypeVar("T")

CHECKS_PER_TIMEOUT = 4


class IdleWatch:
    """One thread that looks after all calls; call `close` to end it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._waits: dict[object, tuple[float, Callable[[], object]]] = {}  # since when, how to end it
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle-watch", daemon=True)
        self._thread.start()

    @contextmanager
    def expecting(self, end: Callable[[], object]) -> Iterator[None]:
        """Calls `end` where the context lasts longer than the timeout."""
        key = object()
        with self._lock:
            self._waits[key] = time.monotonic(), end
        try:
            yield
        finally:
            with self._lock:
                del self._waits[key]

    def watched(self, items: Iterator[T], end: Callable[[], object]) -> Iterator[T]:
        """Hands `items` through; calls `end` where the next one takes longer than the timeout to come."""
        while True:
            with self.expecting(end):
                item = next(items, self)
            if item is self:
                return
            yield cast(T, item)

    def taken(self, items: Iterator[T], end: Callable[[], object]) -> Iterator[T]:
        """Hands `items` through; calls `end` where one takes longer than the timeout to be taken."""
        for item in items:
            with self.expecting(end):
                yield item

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._timeout_s / CHECKS_PER_TIMEOUT):
            now_s = time.monotonic()
            with self._lock:
                late = [end for since_s, end in self._waits.values() if now_s - since_s > self._timeout_s]
            for end in late:
                end()
