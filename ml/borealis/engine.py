"""The one owner of the model: chunks of all recordings meet in its slots."""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from types import TracebackType

import numpy as np

from ml.borealis.batching import Batcher, ChunkModel, Job
from ml.borealis.fair_queue import FairQueue
from ml.borealis.features import N_SAMPLES, SAMPLE_RATE
from ml.borealis.model import Waveform
from ml.errors import RecognitionError

SLOTS = 32  # chunks in decoding at once
QUEUE_CAPACITY = 64  # chunks one recording may have waiting: 0.12 GB at 30 s each
STOPPED = "Распознавание остановлено: программа завершает работу."

logger = logging.getLogger("BorealisModel")


class Engine:
    """Runs the model on a thread of its own, which alone touches the device. Close it, or the program does not end.

    Continuous batching: up to `slots` chunks are decoded side by side; one that ends leaves at once, and the next
    takes its slot, in turn from every recording that waits. Groups of chunks are encoded between or beside the steps.
    """

    def __init__(self, model: ChunkModel, slots: int = SLOTS, queue_capacity: int = QUEUE_CAPACITY) -> None:
        self._waiting: FairQueue[Job] = FairQueue(queue_capacity)
        self._batcher = Batcher(model, slots)
        self.work = self._batcher.work
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

    def submit(self, waveform: Waveform, owner: Hashable = None) -> "Future[str]":
        """Queues one chunk (N,) float32, 1 to 480,000 samples at 16 kHz, and returns its text to come.

        `owner` is the recording it is of: owners take turns. Blocks while the owner's line is full. Cancelling the
        future takes the chunk out of the queue or out of its slot. The future fails with RecognitionError if the
        model fails over this chunk. Raises ValueError for anything but such a chunk and RecognitionError once the
        engine is closed.
        """
        if waveform.dtype != np.float32 or waveform.ndim != 1 or not 0 < len(waveform) <= N_SAMPLES:
            raise ValueError(f"a chunk is 1 to {N_SAMPLES} float32 samples, got {waveform.dtype} {waveform.shape}")
        job = Job(waveform, submitted_s=time.perf_counter())
        if not self._waiting.put(owner, job):
            raise RecognitionError(STOPPED)
        job.future.add_done_callback(self._evict(owner, job))
        return job.future

    def warm_up(self) -> None:
        """Recognises a second of silence, so that the first request finds memory and kernels ready.

        Raises RecognitionError if the model cannot do even that.
        """
        self.submit(np.zeros(SAMPLE_RATE, np.float32), owner=self).result()

    def close(self) -> None:
        """Cancels what waits, finishes what is under way and ends the thread. May be called again."""
        for job in self._waiting.close():
            job.drop()
        self._thread.join()

    def _evict(self, owner: Hashable, job: Job) -> "Callable[[Future[str]], None]":
        """What takes the chunk out of the queue when its future is cancelled."""
        reference = weakref.ref(job)  # the future must not hold on to the sound

        def evict(future: "Future[str]") -> None:
            waiting = reference()
            if waiting and future.cancelled() and self._waiting.discard(owner, waiting):
                waiting.drop()

        return evict

    def _run(self) -> None:
        try:
            while self._let_in() or self._batcher.busy:
                self._batcher.advance()
        except BaseException:
            logger.critical("Поток распознавания аварийно завершился.", exc_info=True)
        finally:
            for job in self._waiting.close():
                job.drop()
            for job in self._batcher.abandon():
                job.fail(None, STOPPED)

    def _let_in(self) -> bool:
        """Lets the next group in where there is room; waits for one while there is nothing else to do."""
        room = self._batcher.room
        jobs = self._waiting.take(room, wait=not self._batcher.busy) if room else []
        if jobs:
            self._batcher.let_in(jobs)
        return bool(jobs)
