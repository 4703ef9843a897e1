"""The thread pool of the calls, with a count of those that wait for a thread and of those in flight."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CountingExecutor(ThreadPoolExecutor):
    """A ThreadPoolExecutor that counts what was submitted and has not begun, and what has not ended."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, thread_name_prefix="rpc")
        self._changed = threading.Condition()
        self._waiting = 0
        self._unfinished = 0

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return self._waiting

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until every call has ended; False if `timeout_s` passes first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._unfinished == 0, timeout_s)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """See ThreadPoolExecutor."""
        self._count(waiting=1, unfinished=1)
        try:
            return super().submit(self._run, fn, *args, **kwargs)
        except RuntimeError:  # shut down
            self._count(waiting=-1, unfinished=-1)
            raise

    def _run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._count(waiting=-1)
        try:
            return fn(*args, **kwargs)
        finally:
            self._count(unfinished=-1)

    def _count(self, waiting: int = 0, unfinished: int = 0) -> None:
        with self._changed:
            self._waiting += waiting
            self._unfinished += unfinished
            self._changed.notify_all()
