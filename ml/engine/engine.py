"""The one recording_id of the model: chunks of all recordings meet in its slots."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from types import TracebackType

import numpy as np

from ml.borealis.features import N_SAMPLES
from ml.engine.fair_queue import FairQueue
from ml.engine.scheduler import ChunkModel, Request, Scheduler
from ml.errors import EngineStoppedError
from ml.interfaces import SAMPLE_RATE, RecognitionOptions, Waveform
from ml.transcript import Completion

SLOTS = 32  # chunks in decoding at once
QUEUE_CAPACITY = 64  # chunks one recording may have waiting: 0.12 GB at 30 s each
STOPPED = "Распознавание остановлено: повторите запрос позже."

logger = logging.getLogger("BorealisModel")


class Engine:
    """Runs the model on a thread of its own, which alone touches the device. Close it, or the program does not end.

    Continuous batching: up to `slots` chunks are decoded side by side; one that ends leaves at once, and the next
    takes its slot, in turn from every recording that waits. Groups of chunks are encoded between or beside the steps.
    """

    def __init__(self, model: ChunkModel, slots: int = SLOTS, queue_capacity: int = QUEUE_CAPACITY) -> None:
        self._waiting: FairQueue[Request] = FairQueue(queue_capacity)
        self._batcher = Scheduler(model, slots)
        self._samples = model.do_sample
        self.work = self._batcher.work
        self._working_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="borealis-engine", daemon=False)
        self._thread.start()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_alive(self) -> bool:
        """Whether the engine's thread is there to answer."""
        return self._thread.is_alive()

    @property
    def busy_without_progress_s(self) -> float:
        """Seconds since the thread began what it is at; 0 while there is nothing to do. A hung device shows here."""
        since_s = self._working_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    @property
    def queued_audio_s(self) -> float:
        """Seconds of audio that wait for a slot."""
        return sum(len(job.waveform) for job in self._waiting.snapshot()) / SAMPLE_RATE

    def gauges(self) -> dict[str, float]:
        """What is going on: for metrics."""
        work, waiting = self.work, self._waiting.snapshot()
        return {
            "queued_chunks": len(waiting),
            "queued_audio_seconds": sum(len(job.waveform) for job in waiting) / SAMPLE_RATE,
            "slots_occupied": self._batcher.seated,
            "mean_batch": work.stepped_rows / work.steps if work.steps else 0.0,
            **{f"engine_{name}": value for name, value in work.snapshot().items()},
        }

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queue one chunk (N,) float32, 1 to 480,000 samples at 16 kHz; return its completion to come.

        Recordings take turns, told apart by `recording_id`; the call blocks while its recording's queue is full.
        `options.sampled` draws the text as the model card does. Cancelling the future evicts the chunk from the queue
        or from its slot. The future fails with RecognitionError if the model fails over this chunk. Raises ValueError
        for anything but such a chunk and EngineStoppedError once the engine is closed.
        """
        if waveform.dtype != np.float32 or waveform.ndim != 1 or not 0 < len(waveform) <= N_SAMPLES:
            raise ValueError(f"a chunk is 1 to {N_SAMPLES} float32 samples, got {waveform.dtype} {waveform.shape}")
        job = Request(waveform, recording_id, time.perf_counter(), options.sampled or self._samples)
        if not self._waiting.put(recording_id, job):
            raise EngineStoppedError(STOPPED)
        job.future.add_done_callback(self._evict(recording_id, job))
        return job.future

    def warm_up(self) -> None:
        """Recognises a second of silence, so that the first request finds memory and kernels ready.

        Raises RecognitionError if the model cannot do even that.
        """
        self.submit(np.zeros(SAMPLE_RATE, np.float32), recording_id=self).result()

    def close(self) -> None:
        """Cancels what waits, finishes what is under way and ends the thread. May be called again."""
        for job in self._waiting.close():
            job.drop()
        self._thread.join()

    def abort_all(self) -> None:
        """Gives everybody up without waiting for the thread, which hangs."""
        for job in self._waiting.close() + self._batcher.inside():
            job.give_up()

    def _evict(self, recording_id: Hashable, job: Request) -> "Callable[[Future[Completion]], None]":
        """What takes the chunk out of the queue when its future is cancelled."""
        reference = weakref.ref(job)  # the future must not hold on to the sound

        def evict(future: "Future[Completion]") -> None:
            waiting = reference()
            if waiting and future.cancelled() and self._waiting.discard(recording_id, waiting):
                waiting.drop()

        return evict

    def _run(self) -> None:
        try:
            while self._admit() or self._batcher.busy:
                self._working_since_s = time.monotonic()
                self._batcher.advance()
        except BaseException:
            logger.critical("Поток распознавания аварийно завершился.", exc_info=True)
        finally:
            for job in self._waiting.close():
                job.drop()
            for job in self._batcher.abandon():
                job.give_up()

    def _admit(self) -> bool:
        """Admit the next batch while the budget allows it; wait for one while idle."""
        self._working_since_s = time.monotonic() if self._batcher.busy else None
        admission_budget = self._batcher.admission_budget(self._waiting.recording_ids())
        jobs = self._waiting.take(admission_budget, wait=not self._batcher.busy) if admission_budget else []
        if jobs:
            self._working_since_s = time.monotonic()
            self._batcher.admit(jobs)
        return bool(jobs)
