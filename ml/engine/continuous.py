"""Continuous batching: sequences are encoded in batches, decoded side by side, and leave one by one as they finish."""

import logging
import time
from collections.abc import Callable, Hashable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ml.engine.request import Request
from ml.engine.scheduler import Budget, EngineStats, Heartbeat, halve, log_failure
from ml.interfaces import Waveform
from ml.transcript import Completion

SPARSE = 2  # compact once a step would cover so many times as many rows as sequences: a step costs by its rows
DECODE_SHARE = 0.25  # least share of the time for decode steps, while there is anything to decode
ENCODE_SHARE = 0.25  # the same for the encoder while a new recording's first chunk is in decoding: it goes first
URGENT_STEPS = 3  # steps of urgent sequences alone, for each step of all
MAX_SEEN = 4096  # recordings remembered
MIN_SLOTS_TO_RESERVE = 8  # from here on one row is kept for new recordings


@dataclass(eq=False)
class Sequence:
    """One admitted chunk. It has a row of the KV cache from its prefill on."""

    request: Request
    urgent: bool = False  # decoded before the others
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
    partial_steps: bool  # whether a step of a few sequences takes less time than one of all
    max_chunk_samples: int
    logger: logging.Logger
    fast_path_failed: bool  # a slower path serves than the device should have
    on_progress: Callable[[], None]  # called while an encoder batch or a prefill advances; the scheduler sets it

    def encode(self, waveforms: list[Waveform]) -> B:
        """Start encoding up to `encoder_batch` chunks."""

    def prefill(self, sequences: list[Sequence], rows: list[int], batch: B) -> None:
        """Fill `rows` of the KV cache from `batch`, in the order of `sequences`, and start decoding a first token."""

    def step(self, sequences: list[Sequence], partial: bool) -> None:
        """Start decoding one more token for each of `sequences`, given in the order of their rows.

        They are all that have a row unless the step is `partial`.
        """

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
        self._seen: dict[Hashable, None] = {}  # recordings admitted lately
        self._new_went_first = False  # the last batch was of new recordings alone: the others are next
        self._batch_s = 0.0  # what the last encoder batch took, its prefill included
        self._decoded_s = 0.0  # decode steps since then
        self._urgent_steps = 0  # since the last step of all

    @property
    def in_flight(self) -> list[Request]:
        """See Scheduler."""
        return [sequence.request for sequence in list(self._sequences)]

    @property
    def running(self) -> int:
        """See Scheduler: sequences in decoding."""
        return len(self._decoding())

    def admission_budget(self, waiting: AbstractSet[Hashable]) -> Budget:
        """See Scheduler. New recordings go first and by themselves, at most every other time."""
        admitted = {sequence.request.recording_id for sequence in self._sequences}
        new_recordings = waiting - admitted
        decoding = self._decoding()
        if self._encoding or (decoding and self._decoded_s < self._decode_s_wanted(decoding, new_recordings)):
            return Budget(0)
        vacant = self._runner.slots - len(decoding)
        if new_recordings and new_recordings != waiting and not self._new_went_first:
            return Budget(min(len(new_recordings), self._runner.encoder_batch, vacant), new_recordings)
        reserved = 0 if new_recordings else int(self._runner.slots >= MIN_SLOTS_TO_RESERVE)
        return Budget(min(self._runner.encoder_batch, max(vacant - reserved, 0)))

    def admit(self, requests: list[Request]) -> None:
        """See Scheduler: start encoding."""
        started_s = time.perf_counter()
        sequences = self._append(requests)
        self._batch_s = self._decoded_s = 0.0
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

    def _append(self, requests: list[Request]) -> list[Sequence]:
        """Make sequences of `requests`.

        Urgent is a recording's first chunk of all, and one that has none in flight while other recordings have.
        """
        admitted = {sequence.request.recording_id for sequence in self._sequences}
        self._new_went_first = bool(admitted) and not any(request.recording_id in admitted for request in requests)
        sequences = []
        for request in requests:
            recording_id = request.recording_id
            urgent = recording_id not in self._seen or (recording_id not in admitted and bool(admitted))
            sequences.append(Sequence(request, urgent))
            admitted.add(recording_id)
            self._seen[recording_id] = None
        while len(self._seen) > MAX_SEEN:
            del self._seen[next(iter(self._seen))]
        self._sequences += sequences
        return sequences

    def _decode_s_wanted(self, decoding: list[Sequence], new_recordings: AbstractSet[Hashable]) -> float:
        """Seconds of decode steps before the next encoder batch.

        More of them while that batch would only delay an urgent sequence: a clip beside a long file, or the first
        segment of a file.
        """
        if not new_recordings and any(sequence.urgent for sequence in decoding):
            return self._batch_s * (1 - ENCODE_SHARE) / ENCODE_SHARE
        return self._batch_s * DECODE_SHARE / (1 - DECODE_SHARE)

    def _decoding(self) -> list[Sequence]:
        """Sequences that have a row, in the order of their rows."""
        return sorted((each for each in list(self._sequences) if each.row is not None), key=_row)

    def _encode(self, sequences: list[Sequence]) -> B:
        started_s = time.perf_counter()
        batch = self._runner.encode([sequence.request.waveform for sequence in sequences])
        duration_s = time.perf_counter() - started_s
        self.stats.encode_s += duration_s
        self._batch_s += duration_s
        self.heartbeat.beat()
        return batch

    def _prefill(self, sequences: list[Sequence], batch: B) -> None:
        started_s = time.perf_counter()
        taken = {sequence.row for sequence in self._sequences}
        rows = [row for row in range(self._runner.slots) if row not in taken][: len(sequences)]
        self._runner.prefill(sequences, rows, batch)
        for sequence, row in zip(sequences, rows, strict=True):  # only after the prefill: without a row it is retried
            sequence.row = row
        duration_s = time.perf_counter() - started_s
        self.stats.prefill_s += duration_s
        self._batch_s += duration_s
        self.heartbeat.beat()

    def _step(self) -> None:
        started_s = time.perf_counter()
        self._compact()
        decoding = self._decoding()
        sequences = self._choose(decoding)
        self.stats.steps += 1
        self.stats.stepped_rows += len(sequences)
        self._runner.step(sequences, partial=len(sequences) < len(decoding))
        finished = self._runner.read_finished()
        duration_s = time.perf_counter() - started_s
        self.stats.step_s += duration_s
        self._decoded_s += duration_s
        self.heartbeat.beat()
        self._finish(finished)
        self._evict_cancelled()
        if not self._decoding():
            self._runner.clear()  # steps still under way hold on to sequences that have finished

    def _choose(self, sequences: list[Sequence]) -> list[Sequence]:
        """The sequences of the next step: most of the time the urgent ones alone, where they are few."""
        urgent = [sequence for sequence in sequences if sequence.urgent]
        is_worth_it = self._runner.partial_steps and 0 < SPARSE * len(urgent) <= len(sequences)
        if is_worth_it and self._urgent_steps < URGENT_STEPS:
            self._urgent_steps += 1
            return urgent
        self._urgent_steps = 0
        return sequences

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
