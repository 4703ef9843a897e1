"""The one owner of the model: chunks of all requests meet in its batches."""

import logging
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

import numpy as np
import torch

from ml.borealis.features import N_SAMPLES, SAMPLE_RATE
from ml.borealis.model import Waveform
from ml.borealis.staging import make_stager
from ml.borealis.waiting import WaitingRoom
from ml.errors import RecognitionError

BATCH_SIZE = 32  # chunks
MAX_QUEUE = 256  # chunks: 0.5 GB of waveforms at 30 s each
STOPPED = "Распознавание остановлено: программа завершает работу."

logger = logging.getLogger("BorealisModel")


class ChunkModel(Protocol):
    """What the engine needs of a model; BorealisModel is one."""

    device: torch.device

    def log_mel(self, waveforms: torch.Tensor, /) -> torch.Tensor:
        """Waveforms (B, N) to features (B, 128, 3000)."""

    def encode(self, features: torch.Tensor) -> torch.Tensor:
        """Features to audio embeddings (B, 375, H)."""

    def embed(self, audio: torch.Tensor) -> torch.Tensor:
        """Audio embeddings to the language model's inputs (B, T, H)."""

    def transcribe_inputs(self, inputs: torch.Tensor) -> list[str]:
        """The language model's inputs to texts."""


@dataclass(eq=False)
class _Job:
    waveform: Waveform
    future: Future[str] = field(default_factory=Future)
    features: torch.Tensor | None = None  # (128, 3000) on the device, once staged

    def release(self) -> None:
        """Forget the sound: whoever keeps the future need not keep that."""
        self.waveform = self.waveform[:0].copy()
        self.features = None


class Engine:
    """Runs the model on a thread of its own, which alone touches the device. Close it, or the program does not end.

    Whatever waits, up to `batch_size` chunks, is recognised together; nobody waits for a batch to fill up. On CUDA
    the next batch is copied and turned into features while the device works on the present one.
    """

    def __init__(self, model: ChunkModel, batch_size: int = BATCH_SIZE, max_queue: int = MAX_QUEUE) -> None:
        self._model = model
        self._batch_size = batch_size
        self._waiting: WaitingRoom[_Job] = WaitingRoom(max_queue)
        self._stager = make_stager(model.log_mel, model.device, batch_size)
        self._staged: list[_Job] = []  # the beginning of the next batch, prepared early
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

    def submit(self, waveform: Waveform) -> Future[str]:
        """Queue one chunk (N,) float32, 1 to 480,000 samples at 16 kHz, and return its text to come.

        Blocks while the queue is full. Cancelling the future takes the chunk out of the queue. The future fails with
        RecognitionError if the model fails over this chunk. Raises ValueError for anything but such a chunk and
        RecognitionError once the engine is closed.
        """
        if waveform.dtype != np.float32 or waveform.ndim != 1 or not 0 < len(waveform) <= N_SAMPLES:
            raise ValueError(f"a chunk is 1 to {N_SAMPLES} float32 samples, got {waveform.dtype} {waveform.shape}")
        job = _Job(waveform)
        if not self._waiting.put(job):
            raise RecognitionError(STOPPED)
        job.future.add_done_callback(lambda future: self._evict(job) if future.cancelled() else None)
        return job.future

    def warm_up(self) -> None:
        """Recognise silence, a full batch of it on CUDA, so that the first request finds memory and kernels ready.

        Raises RecognitionError if the model cannot do even that.
        """
        count = self._batch_size if self._model.device.type == "cuda" else 1
        for future in [self.submit(np.zeros(SAMPLE_RATE, np.float32)) for _ in range(count)]:
            future.result()

    def close(self) -> None:
        """Cancel what waits, finish the batch at work and end the thread. May be called again."""
        _abandon(self._waiting.close())
        self._thread.join()

    def _evict(self, job: _Job) -> None:
        if self._waiting.discard(job):
            job.future.set_running_or_notify_cancel()
            job.release()

    def _run(self) -> None:
        batch: list[_Job] = []
        try:
            while batch := self._next_batch():
                self._recognise(batch)
                for job in batch:
                    job.release()
        except BaseException:
            logger.critical("Поток распознавания аварийно завершился.", exc_info=True)
        finally:
            _abandon(batch + self._staged + self._waiting.close())

    def _next_batch(self) -> list[_Job]:
        """What was prepared early and what waits now; empty when the engine is closed."""
        early, self._staged = self._staged, []
        return early + self._waiting.take(self._batch_size - len(early), wait=not early)

    def _recognise(self, batch: Sequence[_Job]) -> None:
        """Answer every job of `batch`: those that fail together are halved until each stands alone."""
        jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
        error = self._attempt(jobs, self._look_ahead) if jobs else None
        pending = [(jobs, error)] if error else []
        while pending:
            jobs, error = pending.pop()
            if len(jobs) == 1:
                _fail(jobs[0], error)
                continue
            for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
                if error := self._attempt(half, lambda: None):
                    pending.append((half, error))

    def _attempt(self, jobs: Sequence[_Job], meanwhile: Callable[[], None]) -> Exception | None:
        """Recognise `jobs` together, calling `meanwhile` once the device is busy. Returns what went wrong."""
        try:
            self._stage(jobs)
            self._stager.settle()
            features = torch.stack([job.features for job in jobs if job.features is not None])  # (B, 128, 3000)
            inputs = self._model.embed(self._model.encode(features))
            meanwhile()
            answers = list(zip(jobs, self._model.transcribe_inputs(inputs), strict=True))
        except Exception as error:
            logger.warning("Пакет из %d фрагментов не распознан.", len(jobs), exc_info=True)
            traceback.clear_frames(error.__traceback__)  # they hold the batch's tensors
            if isinstance(error, torch.OutOfMemoryError):
                torch.cuda.empty_cache()
            return error
        for job, text in answers:
            job.future.set_result(text)
        return None

    def _stage(self, jobs: Sequence[_Job]) -> None:
        """Give features to those of `jobs` that have none yet."""
        missing = [job for job in jobs if job.features is None]
        if missing:
            features = self._stager.stage([job.waveform for job in missing])
            for job, item in zip(missing, features, strict=True):
                job.features = item

    def _look_ahead(self) -> None:
        """Begin the next batch with what waits, where that costs the present one nothing."""
        if self._stager.runs_beside:
            self._staged = self._waiting.take(self._batch_size, wait=False)
            try:
                self._stage(self._staged)
            except Exception:  # it shows again, and is dealt with, when their own turn comes
                logger.warning("Подготовка следующего пакета не удалась.", exc_info=True)


def _fail(job: _Job, cause: Exception | None) -> None:
    error = RecognitionError("Модель не смогла распознать фрагмент аудио.")
    error.__cause__ = cause
    job.future.set_exception(error)


def _abandon(jobs: Sequence[_Job]) -> None:
    """Cancel those that wait; fail those that were at work when the thread broke down."""
    for job in jobs:
        if job.future.cancel():
            job.future.set_running_or_notify_cancel()
        elif not job.future.done():
            job.future.set_exception(RecognitionError(STOPPED))
