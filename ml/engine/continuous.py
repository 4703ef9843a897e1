"""Continuous batching: sequences are encoded in batches, decoded side by side, and leave one by one as they finish."""

import logging
import time
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ml.engine.request import Request
from ml.engine.scheduler import EngineStats, Heartbeat, halve, log_failure
from ml.interfaces import Waveform
from ml.transcript import Completion

SPARSE = 2  # compact once a step would cover so many times as many rows as sequences: a step costs by its rows
LONGER = 8  # times as many steps between encoder batches, while nothing that waits is urgent


@dataclass(eq=False)
class Sequence:
    """One admitted chunk. It has a row of the KV cache from its prefill on."""

    request: Request
    row: int | None = None
    steps: int = 0  # decode steps started since the prefill
    tokens: list[int] = field(default_factory=list)  # as read back from the device
    probabilities: list[float] = field(default_factory=list)  # of the tokens, the end included
    finished: bool = False  # complete, failed or evicted: tokens still under way for it are ignored
    truncated: bool = False  # finished by the limit on tokens

    def restart(self) -> None:
        """Back to the state before the prefill."""
        self.row, self.steps = None, 0
        self.finished = self.truncated = False
        self.tokens.clear()
        self.probabilities.clear()


class EncoderBatch(Protocol):
    """Chunks being encoded."""

    def is_ready(self) -> bool:
        """Whether the embeddings are computed."""


B = TypeVar("B", bound=EncoderBatch)


class ModelRunner(Protocol[B]):
    """What continuous batching needs of a model with an encoder and a token decoder."""

    slots: int  # rows of the KV cache: sequences decoded side by side
    encoder_batch: int  # chunks encoded together, at most
    steps_between_batches: int  # decode steps before another encoder batch, so that what is in decoding keeps moving
    max_chunk_samples: int
    logger: logging.Logger
    fast_path_failed: bool  # a slower path serves than the device should have
    on_progress: Callable[[], None]  # called while an encoder batch or a prefill advances; the scheduler sets it

    def encode(self, waveforms: list[Waveform]) -> B:
        """Start encoding up to `encoder_batch` chunks."""

    def prefill(self, sequences: list[Sequence], rows: list[int], batch: B) -> None:
        """Fill `rows` of the KV cache from `batch`, in the order of `sequences`, and start decoding a first token."""

    def step(self, sequences: list[Sequence]) -> None:
        """Start decoding one more token for each of `sequences`: all that have a row, in the order of their rows."""

    def read_finished(self) -> list[Sequence]:
        """Read the tokens that have arrived; return the sequences that they finish."""

    def move(self, row: int, to: int) -> None:
        """Copy the state of `row` to the vacant row `to`."""

    def release(self, row: int) -> None:
        """Note that the sequence in `row` has left."""

    def clear(self) -> None:
        """Forget tokens under way; every row is vacant."""

    def complete(self, sequences: list[Sequence]) -> list[Completion]:
        """The texts of finished sequences."""

    def recover(self, error: Exception) -> None:
        """Make the device usable after `error`, or raise it where every later call would fail as well."""


class ContinuousScheduler(Generic[B]):
    """Admits, encodes, prefills, steps and finishes sequences. Implements ml.engine.scheduler.Scheduler."""

    def __init__(self, runner: ModelRunner[B]) -> None:
        self.max_chunk_samples = runner.max_chunk_samples
        self.logger = runner.logger
        self.stats = EngineStats(fast_path_failed=int(runner.fast_path_failed))
        self.heartbeat = Heartbeat()
        self._runner = runner
        runner.on_progress = self.heartbeat.beat
        self._sequences: list[Sequence] = []  # admitted and not finished, oldest first: all that is in flight
        self._encoding: tuple[list[Sequence], B] | None = None  # the youngest of them
        self._steps = 0  # since the last encoder batch

    @property
    def in_flight(self) -> list[Request]:
        """See Scheduler."""
        return [sequence.request for sequence in list(self._sequences)]

    @property
    def running(self) -> int:
        """See Scheduler: sequences in decoding."""
        return len(self._decoding())

    def admission_budget(self, waiting: AbstractSet[Hashable]) -> int:
        """See Scheduler. New recordings go without the chunks of those that have some in flight already."""
        admitted = {sequence.request.recording_id for sequence in self._sequences}
        decoding = self.running
        if self._encoding or (decoding and self._steps < self._steps_wanted(waiting, admitted)):
            return 0
        new_recordings = waiting - admitted
        is_mixed = bool(new_recordings) and new_recordings != waiting
        priority_count = len(new_recordings) if is_mixed else self._runner.encoder_batch
        return min(priority_count, self._runner.encoder_batch, self._runner.slots - decoding)

    def admit(self, requests: list[Request]) -> None:
        """See Scheduler: start encoding."""
        started_s = time.perf_counter()
        sequences = [Sequence(request) for request in requests]
        self._sequences += sequences
        self._steps = 0
        self.stats.groups += 1
        self.stats.waited_s += sum(started_s - request.submitted_s for request in requests)
        try:
            self._encoding = sequences, self._encode(sequences)
        except Exception as error:
            self._isolate(sequences, error)

    def advance(self) -> None:
        """See Scheduler: prefill the encoder batch that is ready, and decode one token for each sequence."""
        if self._encoding and (self._encoding[1].is_ready() or not self._decoding()):
            sequences, batch = self._encoding
            self._encoding = None
            try:
                self._prefill(sequences, batch)
            except Exception as error:
                self._isolate(sequences, error)
        if self._decoding():
            try:
                self._step()
            except Exception as error:
                self._retry_individually(error)

    def clear(self) -> list[Request]:
        """See Scheduler."""
        self._runner.clear()
        self._encoding = None
        sequences, self._sequences = self._sequences, []
        return [sequence.request for sequence in sequences]

    def _steps_wanted(self, waiting: AbstractSet[Hashable], admitted: AbstractSet[Hashable]) -> int:
        """Steps before the next encoder batch.

        None while all recordings in flight have more to encode, for no text is late by it. Many while the batch would
        only delay a recording whose last chunks are in flight: a clip beside a long file.
        """
        if not waiting <= admitted:
            return self._runner.steps_between_batches
        return 0 if waiting == admitted else self._runner.steps_between_batches * LONGER

    def _decoding(self) -> list[Sequence]:
        """Sequences that have a row, in the order of their rows."""
        return sorted((each for each in list(self._sequences) if each.row is not None), key=_row)

    def _encode(self, sequences: list[Sequence]) -> B:
        started_s = time.perf_counter()
        batch = self._runner.encode([sequence.request.waveform for sequence in sequences])
        self.stats.encode_s += time.perf_counter() - started_s
        self.heartbeat.beat()
        return batch

    def _prefill(self, sequences: list[Sequence], batch: B) -> None:
        started_s = time.perf_counter()
        taken = {sequence.row for sequence in self._sequences}
        rows = [row for row in range(self._runner.slots) if row not in taken][: len(sequences)]
        self._runner.prefill(sequences, rows, batch)
        for sequence, row in zip(sequences, rows, strict=True):  # only after the prefill: without a row it is retried
            sequence.row = row
        self.stats.prefill_s += time.perf_counter() - started_s
        self.heartbeat.beat()

    def _step(self) -> None:
        started_s = time.perf_counter()
        self._compact()
        sequences = self._decoding()
        self._steps += 1
        self.stats.steps += 1
        self.stats.stepped_rows += len(sequences)
        self._runner.step(sequences)
        finished = self._runner.read_finished()
        self.stats.step_s += time.perf_counter() - started_s
        self.heartbeat.beat()
        self._finish(finished)
        self._evict_cancelled()
        if not self._decoding():
            self._runner.clear()  # steps still under way hold on to sequences that have finished

    def _compact(self) -> None:
        """Move the last rows to the front once most rows of a step would be vacant."""
        sequences = self._decoding()
        count = len(sequences)
        if _row(sequences[-1]) < SPARSE * count:
            return
        taken = {sequence.row for sequence in sequences}
        vacant = [row for row in range(count) if row not in taken]
        beyond = [sequence for sequence in reversed(sequences) if _row(sequence) >= count]  # as many as vacant
        for to, sequence in zip(vacant, beyond, strict=True):
            self._runner.move(_row(sequence), to)
            sequence.row = to

    def _finish(self, sequences: list[Sequence]) -> None:
        completions = self._runner.complete(sequences) if sequences else []
        for sequence, completion in zip(sequences, completions, strict=True):
            self._remove(sequence)
            self.stats.chunks += 1
            sequence.request.complete(completion)

    def _evict_cancelled(self) -> None:
        for sequence in self._decoding():
            if sequence.request.is_cancelled:
                self._remove(sequence)
                sequence.request.cancel()

    def _remove(self, sequence: Sequence) -> None:
        sequence.finished = True
        self._sequences.remove(sequence)
        if sequence.row is not None:
            self._runner.release(sequence.row)

    def _isolate(self, sequences: list[Sequence], error: Exception) -> None:
        """Encode and prefill the halves of a batch that failed, until the sequence at fault stands alone."""
        self._on_error(sequences, error)
        if len(sequences) > 1:
            halve(sequences, self._encode_and_prefill, self._on_error)

    def _encode_and_prefill(self, sequences: list[Sequence]) -> None:
        self._prefill(sequences, self._encode(sequences))

    def _retry_individually(self, error: Exception) -> None:
        """Decode each sequence from its start, alone, after a step has failed for all."""
        sequences = self._decoding()
        self._report(error, len(sequences))
        self._vacate(sequences)
        for sequence in sequences:
            try:
                self._encode_and_prefill([sequence])
                while sequence.row is not None and not sequence.finished:
                    self._step()
            except Exception as failure:
                self._vacate([sequence])
                self._on_error([sequence], failure)

    def _vacate(self, sequences: list[Sequence]) -> None:
        self._runner.clear()
        for sequence in sequences:
            if sequence.row is not None:
                self._runner.release(sequence.row)
            sequence.restart()

    def _on_error(self, sequences: list[Sequence], error: Exception) -> None:
        """Report a failure; fail the request of a sequence that stands alone."""
        self._report(error, len(sequences))
        if len(sequences) == 1:
            self._remove(sequences[0])
            sequences[0].request.fail(error)

    def _report(self, error: Exception, count: int) -> None:
        self._runner.recover(error)
        self.heartbeat.beat()  # a failed attempt is over as well
        log_failure(self.logger, error, count)


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None
    return sequence.row
