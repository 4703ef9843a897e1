"""Continuous batching: sequences are encoded in batches, decoded side by side, and leave one by one as they finish."""

import time
from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AbstractSet
from typing import Generic

from ml.engine.model_runner import B, Encoding, ModelRunner, Sequence
from ml.engine.request import Request, recording_of
from ml.engine.scheduler import Budget, EngineStats, Heartbeat, halve, log_failure, new_recordings
from ml.engine.time_shares import DECODE_SHARE, URGENT_SHARE, SeenRecordings, TimeShares

SPARSE = 1.25  # compact once a step would cover so many times as many rows as sequences: a step costs by its rows
FEW = 0.5  # urgent sequences are decoded alone where they are at most this share of all
URGENT_STEPS = 7  # steps of urgent sequences alone, for each step of all
MIN_SLOTS_TO_RESERVE = 8  # from here on one row is kept for new recordings


class ContinuousScheduler(Generic[B]):
    """Admits, encodes, prefills, steps and finishes sequences. Implements ml.engine.scheduler.Scheduler."""

    def __init__(self, runner: ModelRunner[B]) -> None:
        self.max_chunk_samples = runner.max_chunk_samples
        self.logger = runner.logger
        self.stats = EngineStats(fast_path_failed=int(runner.fast_path_failed))
        self.heartbeat = Heartbeat()
        self._runner = runner
        runner.on_progress = self.heartbeat.beat
        self.waiting: Callable[[], Mapping[Hashable, int]] = dict
        self._sequences: list[Sequence] = []  # admitted and not finished, oldest first: all that is in flight
        self._encodings: list[Encoding[B]] = []  # the last is worked on, the one before has been overtaken
        self._seen = SeenRecordings()
        self._shares = TimeShares()
        self._encoding_since_s = 0.0
        self._urgent_steps = 0  # since the last step of all

    @property
    def in_flight(self) -> list[Request]:
        """See Scheduler."""
        return [sequence.request for sequence in list(self._sequences)]

    @property
    def running(self) -> int:
        """See Scheduler: sequences in decoding."""
        return len(self._decoding())

    def admission_budget(self, waiting: Mapping[Hashable, int]) -> Budget:
        """See Scheduler. New recordings overtake the others."""
        new = self._new_among(waiting)
        vacant = self._runner.slots - len(self._sequences)
        if self._may_overtake(new, waiting):
            return Budget(min(len(new), self._runner.encoder_batch, vacant), new)
        if self._encodings or not self._may_encode(waiting):
            return Budget(0)
        reserved = 0 if new else int(self._runner.slots >= MIN_SLOTS_TO_RESERVE)
        return Budget(min(self._runner.encoder_batch, max(vacant - reserved, 0)))

    def admit(self, requests: list[Request]) -> None:
        """See Scheduler: begin an encoder batch."""
        started_s = time.perf_counter()
        overtakes = bool(self._sequences) and self._admitted().isdisjoint(map(_recording, requests))
        sequences = self._append(requests)
        self._shares.begin_batch()
        self.stats.groups += 1
        self.stats.waited_s += sum(started_s - request.submitted_s for request in requests)
        try:
            batch = self._encode(sequences)
        except Exception as error:
            self._isolate(sequences, error)
            return
        for encoding in self._encodings:
            encoding.paused = True
        self._encodings.append(Encoding(sequences, batch, overtakes))

    def advance(self) -> None:
        """See Scheduler: go on with the encoder batch, prefill it once ready, decode one token for each sequence."""
        self._end_urgency()
        if self._encodings and self._may_go_on(self._encodings[-1]):
            encoding = self._encodings[-1]
            try:
                self._go_on(encoding)
            except Exception as error:
                self._encodings.remove(encoding)
                self._isolate(encoding.sequences, error)
        if self._decoding():
            try:
                self._step()
            except Exception as error:
                self._retry_individually(error)

    def clear(self) -> list[Request]:
        """See Scheduler."""
        self._runner.clear()
        self._encodings = []
        sequences, self._sequences = self._sequences, []
        return [sequence.request for sequence in sequences]

    def _append(self, requests: list[Request]) -> list[Sequence]:
        """Make sequences of `requests`."""
        admitted, waiting = self._admitted(), set(map(recording_of, self.waiting()))
        if not admitted:
            self._shares.owed_s = 0.0
        sequences = []
        for request in requests:
            recording = _recording(request)
            sequences.append(Sequence(request, self._seen.is_urgent(recording, admitted, waiting)))
            admitted.add(recording)
        self._sequences += sequences
        return sequences

    def _end_urgency(self) -> None:
        """Where more of a recording waits, its first text is urgent only if it is awaited by itself."""
        urgent = [each for each in self._sequences if each.urgent and not each.request.options.incremental]
        waiting = set(map(recording_of, self.waiting())) if urgent else set()
        for sequence in urgent:
            sequence.urgent = _recording(sequence.request) not in waiting

    def _admitted(self) -> set[Hashable]:
        """Recordings that have chunks in flight."""
        return {_recording(sequence.request) for sequence in self._sequences}

    def _new_among(self, waiting: Mapping[Hashable, int]) -> AbstractSet[Hashable]:
        """Recordings that wait and have no chunk in flight."""
        return new_recordings(waiting, self._admitted())

    def _may_overtake(self, new: AbstractSet[Hashable], waiting: Mapping[Hashable, int]) -> bool:
        """Whether new recordings go before the chunks that wait or are being encoded."""
        if not new or self._shares.owed_s > 0 or len(self._sequences) >= self._runner.slots:
            return False
        if _any_urgent(self._decoding()) and not self._may_encode(waiting):
            return False
        if not self._encodings:
            return new != waiting.keys()
        return len(self._encodings) == 1 and self._can_pause(self._encodings[0])

    def _can_pause(self, encoding: Encoding[B]) -> bool:
        return self._runner.pauses and not _any_urgent(encoding.sequences)

    def _must_pause(self) -> bool:
        """Whether a new recording waits that may overtake the batch being computed. For any thread."""
        if len(self._encodings) != 1 or not self._can_pause(self._encodings[0]):
            return False
        is_paid = self._shares.owed_s <= time.perf_counter() - self._encoding_since_s
        has_room = len(self._sequences) < self._runner.slots
        return is_paid and has_room and bool(self._new_among(self.waiting()))

    def _may_go_on(self, encoding: Encoding[B]) -> bool:
        """A batch that was overtaken waits until decoding has had its share, as a new one would."""
        return not encoding.paused or self._may_encode(self.waiting())

    def _may_encode(self, waiting: Mapping[Hashable, int]) -> bool:
        decoding = self._decoding()
        return not decoding or self._shares.has_decoded(self._decode_share(decoding, waiting))

    def _decode_share(self, decoding: list[Sequence], waiting: Mapping[Hashable, int]) -> float:
        """Share of the time that prefill and decode steps get before the next encoder batch.

        None while every recording in decoding has chunks left to encode, for no transcript is late by that: the rows
        fill up, and a step costs each of them less. Most of the time while the next batch would only delay an urgent
        sequence: a clip beside a long file, or the first segment of a file.
        """
        is_urgent = _any_urgent(decoding)
        unfinished = set(map(recording_of, waiting))
        if not is_urgent and all(_recording(each.request) in unfinished for each in decoding):
            return 0.0
        return URGENT_SHARE if is_urgent and not self._new_among(waiting) else DECODE_SHARE

    def _decoding(self) -> list[Sequence]:
        """Sequences that have a row, in the order of their rows."""
        return sorted((each for each in list(self._sequences) if each.row is not None), key=_row)

    def _encode(self, sequences: list[Sequence]) -> B:
        """Begin an encoder batch of `sequences`."""
        started_s = time.perf_counter()
        batch = self._runner.encode([sequence.request.waveform for sequence in sequences])
        self._count_encoding(started_s)
        return batch

    def _go_on(self, encoding: Encoding[B]) -> None:
        """Go on with the batch; prefill it once ready. On a GPU that has nothing else to do, the prefill is queued."""
        started_s = self._encoding_since_s = time.perf_counter()
        encoding.batch.advance(self._must_pause)
        self._count_encoding(started_s)
        if encoding.batch.is_ready() or not (self._decoding() or self._must_pause()):
            self._prefill(encoding.sequences, encoding.batch)
            self._encodings.remove(encoding)
        self._shares.add_turn(time.perf_counter() - started_s, encoding.overtakes)

    def _count_encoding(self, started_s: float) -> None:
        duration_s = time.perf_counter() - started_s
        self.stats.encode_s += duration_s
        self._shares.add_encoding(duration_s)
        self.heartbeat.beat()

    def _prefill(self, sequences: list[Sequence], batch: B) -> None:
        started_s = time.perf_counter()
        taken = {sequence.row for sequence in self._sequences}
        rows = [row for row in range(self._runner.slots) if row not in taken][: len(sequences)]
        self._runner.prefill(sequences, rows, batch)
        for sequence, row in zip(sequences, rows, strict=True):  # only after the prefill: without a row it is retried
            sequence.row = row
        duration_s = time.perf_counter() - started_s
        self.stats.prefill_s += duration_s
        self._shares.add_decoding(duration_s)
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
        self._shares.add_decoding(duration_s)
        self.heartbeat.beat()
        self._finish(finished)
        self._evict_cancelled()
        if not self._decoding():
            self._runner.clear()  # steps still under way hold on to sequences that have finished

    def _choose(self, sequences: list[Sequence]) -> list[Sequence]:
        """The sequences of the next step: most of the time the urgent ones alone, where they are few."""
        urgent = [sequence for sequence in sequences if sequence.urgent]
        is_worth_it = self._runner.partial_steps and 0 < len(urgent) <= FEW * len(sequences)
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


def _recording(request: Request) -> Hashable:
    return recording_of(request.recording_id)


def _any_urgent(sequences: list[Sequence]) -> bool:
    return any(sequence.urgent for sequence in sequences)


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None
    return sequence.row
