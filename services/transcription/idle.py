"""Ends streams that have stopped sending, so that they give their threads back."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

CHECKS_PER_TIMEOUT = 4


class IdleWatch:
    """One thread that looks after all streams; call `close` to end it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._streams: dict[object, tuple[float, Callable[[], object]]] = {}  # last heard of, how to end it
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle-watch", daemon=True)
        self._thread.start()

    def watched(self, items: Iterator[T], end: Callable[[], object]) -> Iterator[T]:
        """Hands `items` through; calls `end` where the next one takes longer than the timeout to come."""
        key = object()
        while True:
            with self._lock:
                self._streams[key] = time.monotonic(), end
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                with self._lock:
                    del self._streams[key]
            yield item

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._timeout_s / CHECKS_PER_TIMEOUT):
            now_s = time.monotonic()
            with self._lock:
                late = [end for since_s, end in self._streams.values() if now_s - since_s > self._timeout_s]
            for end in late:
                end()
