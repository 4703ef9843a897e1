"""A stand-in for the engine that sleeps as long as a batch would take, and costs no processor time meanwhile."""

import threading
import time
from collections.abc import Hashable
from concurrent.futures import Future

from ml.interfaces import RecognitionOptions, Waveform
from ml.transcript import Completion


class Sleeper:
    """Takes up to `slots` chunks at once, as the engine does, for `base_s` and `item_s` for each. Close it."""

    busy_without_progress_s = 0.0

    def __init__(self, base_s: float, item_s: float, slots: int) -> None:
        self._base_s, self._item_s, self._slots = base_s, item_s, slots
        self._waiting: list[Future[Completion]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._steps = self._stepped_rows = 0
        self._thread = threading.Thread(target=self._run, name="sleeper")
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        return self._thread.is_alive()

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queues a waveform (N,); its text to come is empty."""
        future: Future[Completion] = Future()
        with self._changed:
            self._waiting.append(future)
            self._changed.notify_all()
        return future

    def gauges(self) -> dict[str, float]:
        """Batches so far, and the chunks in them."""
        return {"engine_steps": self._steps, "engine_stepped_rows": self._stepped_rows}

    def close(self) -> None:
        """Ends the thread once everybody is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            time.sleep(self._base_s + self._item_s * len(batch))
            self._steps += 1
            self._stepped_rows += len(batch)
            for future in batch:
                if future.set_running_or_notify_cancel():
                    future.set_result(Completion(""))

    def _next(self) -> "list[Future[Completion]]":
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            batch, self._waiting = self._waiting[: self._slots], self._waiting[self._slots :]
            return batch
