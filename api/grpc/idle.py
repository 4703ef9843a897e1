"""Idle timeouts: end a call if its peer neither sends nor reads, so that its thread becomes free."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

T = TypeVar("T")

CHECKS_PER_TIMEOUT = 4


class IdleWatch:
    """Times the waits of all calls on one thread, which starts with the first wait; `close` ends it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._waits: dict[object, tuple[float, Callable[[], object]]] = {}  # when it began, how to end it
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="idle-watch", daemon=True)

    @contextmanager
    def timeout(self, end: Callable[[], object]) -> Iterator[None]:
        """Call `end` from the watch's thread if the context lasts longer than the timeout."""
        key = object()
        with self._lock:
            self._waits[key] = time.monotonic(), end
            if self._thread.ident is None:
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._waits[key]

    def guard_reads(self, messages: Iterator[T], end: Callable[[], object]) -> Iterator[T]:
        """Pass `messages` through; call `end` if the next one does not arrive within the timeout."""
        while True:
            with self.timeout(end):
                message = next(messages, self)
            if message is self:
                return
            yield cast(T, message)

    def guard_writes(self, messages: Iterator[T], end: Callable[[], object]) -> Iterator[T]:
        """Pass `messages` through; call `end` if the peer does not accept one within the timeout."""
        for message in messages:
            with self.timeout(end):
                yield message

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self._timeout_s / CHECKS_PER_TIMEOUT):
            now_s = time.monotonic()
            with self._lock:
                late = [end for since_s, end in self._waits.values() if now_s - since_s > self._timeout_s]
            for end in late:
                end()
