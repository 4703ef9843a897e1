"""The engine: one thread that owns a model, and the queue in which the chunks of all recordings wait for it."""

import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from types import TracebackType

import numpy as np

from ml.engine.fair_queue import FairQueue
from ml.engine.request import STOPPED, Request
from ml.engine.scheduler import EngineStats, Scheduler
from ml.errors import EngineStoppedError
from ml.interfaces import SAMPLE_RATE, Capabilities, RecognitionOptions, Waveform
from ml.transcript import Completion

QUEUE_CAPACITY = 64  # chunks one recording may have waiting: 0.12 GB at 30 s each


class Engine:
    """Runs a scheduler on a thread of its own, which alone touches the device. Close it, or the program does not end.

    A request is either in the queue or, once admitted, in the scheduler, until its future is settled.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        queue_capacity: int = QUEUE_CAPACITY,
        capabilities: Capabilities = Capabilities(),  # noqa: B008 (frozen)
    ) -> None:
        self.capabilities = capabilities  # of the model
        self._queue: FairQueue[Request] = FairQueue(queue_capacity)
        self._scheduler = scheduler
        scheduler.waiting = self._queue.waiting
        self._thread = threading.Thread(target=self._run, name="engine", daemon=False)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def stats(self) -> EngineStats:
        """Totals since the start."""
        return self._scheduler.stats

    @property
    def max_chunk_s(self) -> float:
        """Longest chunk that the model takes."""
        return self._scheduler.max_chunk_samples / SAMPLE_RATE

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread runs."""
        return self._thread.is_alive()

    @property
    def busy_without_progress_s(self) -> float:
        """Seconds since the last chunk or step was done; 0 while there is nothing to do. A hung device shows here."""
        return self._scheduler.heartbeat.silent_s

    @property
    def queued_audio_s(self) -> float:
        """Seconds of audio that wait for admission."""
        return sum(len(request.waveform) for request in self._queue.snapshot()) / SAMPLE_RATE

    def gauges(self) -> dict[str, float]:
        """The engine's state and totals, for metrics."""
        stats, waiting = self.stats, self._queue.snapshot()
        return {
            "queued_chunks": len(waiting),
            "queued_audio_seconds": sum(len(request.waveform) for request in waiting) / SAMPLE_RATE,
            "slots_occupied": self._scheduler.running,
            "mean_batch": stats.stepped_rows / stats.steps if stats.steps else 0.0,
            **{f"engine_{name}": value for name, value in stats.snapshot().items()},
        }

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queue one chunk (N,) float32 at 16 kHz, of at most the model's longest; return the future of its completion.

        Recordings take turns, told apart by `recording_id`; the call blocks while its recording's queue is full.
        Cancelling the future evicts the chunk from the queue or from its batch. The future fails with RecognitionError
        if the model fails over this chunk. Raises ValueError for anything but such a chunk and EngineStoppedError once
        the engine is closed.
        """
        longest = self._scheduler.max_chunk_samples
        if waveform.dtype != np.float32 or waveform.ndim != 1 or not 0 < len(waveform) <= longest:
            raise ValueError(f"a chunk is 1 to {longest} float32 samples, got {waveform.dtype} {waveform.shape}")
        request = Request(waveform, recording_id, time.perf_counter(), options)
        if not self._queue.put(recording_id, request):
            raise EngineStoppedError(STOPPED)
        request.future.add_done_callback(self._make_eviction(request))
        return request.future

    def warm_up(self) -> Completion:
        """Recognise a second of silence, so that the first request finds memory and kernels ready.

        Raises RecognitionError if the model fails even over that.
        """
        return self.submit(np.zeros(SAMPLE_RATE, np.float32), recording_id=self).result()

    def close(self) -> None:
        """Cancel what waits, finish what is in flight and end the thread. May be called again."""
        for request in self._queue.close():
            request.cancel()
        self._thread.join()

    def abort_all(self) -> None:
        """Settle every future with EngineStoppedError, without waiting for the thread, which hangs."""
        for request in self._queue.close() + self._scheduler.in_flight:
            request.abort()

    def _make_eviction(self, request: Request) -> "Callable[[Future[Completion]], None]":
        """Callback that removes the request from the queue when its future is cancelled."""
        reference = weakref.ref(request)  # the future must not keep the waveform in memory

        def evict(future: "Future[Completion]") -> None:
            queued = reference()
            if queued and future.cancelled() and self._queue.discard(queued.recording_id, queued):
                queued.cancel()

        return evict

    def _run(self) -> None:
        scheduler = self._scheduler
        try:
            while self._admit() or scheduler.in_flight:
                scheduler.heartbeat.beat()
                scheduler.advance()
        except BaseException:
            scheduler.logger.critical("Поток распознавания аварийно завершился.", exc_info=True)
        finally:
            for request in self._queue.close():
                request.cancel()
            for request in scheduler.clear():
                request.abort()

    def _admit(self) -> bool:
        """Admit what the scheduler's budget allows; wait for a request while nothing is in flight."""
        scheduler = self._scheduler
        is_idle = not scheduler.in_flight
        if is_idle:
            scheduler.heartbeat.pause()
        budget = scheduler.admission_budget(self._queue.waiting())
        requests = self._queue.take(budget.chunks, is_idle, budget.recordings) if budget.chunks else []
        if requests:
            scheduler.heartbeat.beat()
            scheduler.admit(requests)
        return bool(requests)
