"""The thread pool calls run on, which knows how many of them wait for a thread."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CountingPool(ThreadPoolExecutor):
    """A ThreadPoolExecutor with a count of what was submitted and has not begun."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="rpc")
        self._lock = threading.Lock()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return self._waiting

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See ThreadPoolExecutor."""
        self._count(1)
        try:
            return super().submit(self._run, fn, *args, **kwargs)
        except RuntimeError:  # shut down
            self._count(-1)
            raise

    def _run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._count(-1)
        return fn(*args, **kwargs)

    def _count(self, change: int) -> None:
        with self._lock:
            self._waiting += change
