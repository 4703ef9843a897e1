"""What the engine's thread does with the device: groups are encoded and seated, and everybody seated is stepped."""

import logging
import threading
import time
import zlib
from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch

from ml.borealis.cuda import Staged, make_readback, make_stager
from ml.borealis.model import ENCODER_BATCH
from ml.engine.slots import Decoder, Seat, Slots
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import Waveform
from ml.transcript import Completion, FinishReason

# Decode steps before a group of newcomers on a device that cannot do both at once, so that those seated keep moving.
# With few steps the slots fill up, which makes a step cheap for each.
STEPS_BETWEEN_BATCHES = {"cpu": 4, "cuda": 0}
LONGER = 8  # times as many, while a recording's last chunks are inside and the others that wait are in no hurry

logger = logging.getLogger("BorealisModel")


class ChunkModel(Protocol):
    """What the engine needs of a model; BorealisModel is one."""

    device: torch.device
    eos_id: int
    max_new_tokens: int

    @property
    def encoder_workers(self) -> int:
        """Passes of the encoder that may go on beside each other."""

    @property
    def do_sample(self) -> bool:
        """Whether texts are drawn rather than decoded greedily."""

    def audio_embeddings(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, N) on the device to audio embeddings (B, 375, H)."""

    def make_decoder(self, slots: int) -> Decoder:
        """A decoder of `slots` chunks side by side, ready to run."""

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Token ids to texts."""


@dataclass(eq=False)
class Request:
    """A chunk and its text to come. Its future stays cancellable until the text is there."""

    waveform: Waveform
    recording_id: Hashable  # the recording it is of
    submitted_s: float
    sampled: bool = False  # rather than decoded greedily
    future: "Future[Completion]" = field(default_factory=Future)

    @property
    def seed(self) -> int:
        """The chunk's own, the same wherever and beside whatever it is recognised."""
        return zlib.crc32(self.waveform.tobytes())

    def __post_init__(self) -> None:
        self._claim = threading.Lock()  # held by whoever finishes the future, for good

    def answer(self, completion: Completion) -> None:
        """Hands over the text, unless nobody wants it any more."""
        if self._is_open():
            self.future.set_result(completion)

    def drop(self) -> None:
        """Says that nobody wants the text; as executors do, for those who wait by concurrent.futures.wait."""
        self.future.cancel()
        self._is_open()

    def fail(self, cause: BaseException) -> None:
        """Says that the model fails over this chunk."""
        error = RecognitionError("Модель не смогла распознать фрагмент аудио.")
        error.__cause__ = cause
        self._end(error)

    def give_up(self) -> None:
        """Says that there will be no text, through no fault of the chunk. For any thread."""
        self._end(EngineStoppedError("Распознавание остановлено: повторите запрос позже."))

    def _end(self, error: RecognitionError) -> None:
        if self._is_open():
            self.future.set_exception(error)

    def _is_open(self) -> bool:
        """Whether the future is the caller's to finish: the first to ask, unless it has been cancelled."""
        return self._claim.acquire(blocking=False) and self.future.set_running_or_notify_cancel()


@dataclass
class EngineStats:
    """What has been done so far. Written by the engine's thread; on CUDA the times are those of queueing the work."""

    chunks: int = 0
    groups: int = 0
    steps: int = 0
    stepped_rows: int = 0  # chunks decoded, summed over steps: / steps = mean batch
    waited_s: float = 0.0  # from submission to being encoded, summed over chunks
    encode_s: float = 0.0  # log-mel and encoder
    prefill_s: float = 0.0
    step_s: float = 0.0

    def snapshot(self) -> dict[str, float]:
        """A copy as plain figures."""
        return asdict(self)


class Scheduler:
    """The device's side of the engine; for the engine's thread alone."""

    def __init__(self, model: ChunkModel, slots: int) -> None:
        kind = model.device.type
        self.group = min(slots, ENCODER_BATCH[kind] * model.encoder_workers)
        self.work = EngineStats()
        self._decode = model.decode
        self._stager = make_stager(model.audio_embeddings, model.device, self.group)
        self._slots: Slots[Request] = Slots(
            model.make_decoder(slots), make_readback(model.device, slots), slots, model.eos_id, model.max_new_tokens
        )
        self._inside: dict[Request, None] = {}  # everybody let in and not answered yet, in that order
        self._staged: tuple[list[Request], Staged] | None = None  # a group being encoded
        self._pause = STEPS_BETWEEN_BATCHES[kind]
        self._steps = 0  # since the last group

    @property
    def busy(self) -> bool:
        """Whether there is anything to advance."""
        return bool(self._staged or self._slots.occupied)

    def admission_budget(self, waiting: AbstractSet[Hashable]) -> int:
        """How many chunks may be let in now, if those that wait are of the recordings `waiting`."""
        inside = {job.recording_id for job in self._inside}
        if self._staged or (self._slots.occupied and self._steps < self._steps_wanted(waiting, inside)):
            return 0
        newcomers = waiting - inside
        in_a_hurry = len(newcomers) if newcomers and newcomers != waiting else self.group  # these go without the others
        return min(in_a_hurry, self.group, self._slots.free)

    def _steps_wanted(self, waiting: AbstractSet[Hashable], inside: AbstractSet[Hashable]) -> int:
        """Steps before the next group: none while all who are inside have more to encode, for no text is late by it.

        Many while a group would only keep one waiting whose last chunks are inside: a clip beside a long file.
        """
        if not waiting <= inside:
            return self._pause
        return 0 if waiting == inside else self._pause * LONGER

    def admit(self, jobs: list[Request]) -> None:
        """Starts encoding `jobs`, at most `admission_budget`."""
        started_s = time.perf_counter()
        self._inside.update(dict.fromkeys(jobs))
        self.work.groups += 1
        self.work.waited_s += sum(started_s - job.submitted_s for job in jobs)
        try:
            self._staged = jobs, self._stager.stage([job.waveform for job in jobs])
        except Exception as error:
            self._isolate(jobs, error)
        self.work.encode_s += time.perf_counter() - started_s
        self._steps = 0

    def advance(self) -> None:
        """Seats the group whose encoding is done and decodes one token for everybody seated."""
        if self._staged and (self._staged[1].is_ready() or not self._slots.occupied):
            jobs, staged = self._staged
            self._staged = None
            try:
                self._seat(jobs, staged)
            except Exception as error:
                self._isolate(jobs, error)
        if self._slots.occupied:
            try:
                self._step()
            except Exception as error:
                _report(error, len(self._slots.occupied))
                self._slots.clear()
                still_encoding = self._staged[0] if self._staged else []
                self._retry_individually([job for job in self._inside if job not in still_encoding])

    @property
    def seated(self) -> int:
        """How many chunks are in decoding."""
        return len(self._slots.occupied)

    def inside(self) -> list[Request]:
        """Everybody let in and not answered yet."""
        return list(self._inside)

    def abandon(self) -> list[Request]:
        """Gives everybody up; who they were."""
        self._slots.clear()
        self._staged = None
        inside, self._inside = self._inside, {}
        return list(inside)

    def _seat(self, jobs: list[Request], staged: Staged) -> None:
        started_s = time.perf_counter()
        audio = staged.settle()
        self._slots.seat(jobs, audio, [job.seed if job.sampled else None for job in jobs])
        self.work.prefill_s += time.perf_counter() - started_s

    def _step(self) -> None:
        started_s = time.perf_counter()
        self._steps += 1
        self.work.steps += 1
        self.work.stepped_rows += len(self._slots.occupied)
        self._slots.step()
        ended = self._slots.ended()
        self.work.step_s += time.perf_counter() - started_s
        self._dismiss(ended)
        if not self._slots.occupied:
            self._slots.clear()  # steps still under way hold on to those who have left

    def _dismiss(self, ended: list[Seat[Request]]) -> None:
        """Answers those that have ended and frees the seats of those whom nobody wants any more."""
        for seat, text in zip(ended, self._decode([seat.tokens for seat in ended]) if ended else [], strict=True):
            del self._inside[seat.recording_id]
            reason = FinishReason.LENGTH if seat.unfinished else FinishReason.STOP
            seat.recording_id.answer(Completion(text, reason))
            self.work.chunks += 1
        for seat in self._slots.occupied:
            if seat.recording_id.future.cancelled():
                self._slots.leave(seat)
                del self._inside[seat.recording_id]
                seat.recording_id.drop()

    def _isolate(self, jobs: list[Request], error: Exception) -> None:
        """Halves a group that failed until whoever is at fault stands alone."""
        _report(error, len(jobs))
        if len(jobs) == 1:
            del self._inside[jobs[0]]
            jobs[0].fail(error)
            return
        for half in (jobs[: len(jobs) // 2], jobs[len(jobs) // 2 :]):
            try:
                self._seat(half, self._stager.stage([job.waveform for job in half]))
            except Exception as failure:
                self._isolate(half, failure)

    def _retry_individually(self, jobs: list[Request]) -> None:
        """Decodes each from its start, alone, after a step has failed for all."""
        for job in jobs:
            try:
                self._seat([job], self._stager.stage([job.waveform]))
                while self._slots.occupied:
                    self._step()
            except Exception as error:
                _report(error, 1)
                self._slots.clear()
                del self._inside[job]
                job.fail(error)


def _report(error: Exception, count: int) -> None:
    """Logs a failure that concerns `count` chunks. Raises the error where the device is lost: nothing will go well."""
    if isinstance(error, torch.AcceleratorError):  # CUDA errors stick: every later call fails as well
        raise error
    logger.warning("Пакет из %d фрагментов не распознан.", count, exc_info=error)
    error.__traceback__ = None  # its frames hold the batch's tensors, and whoever waits holds the error
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
