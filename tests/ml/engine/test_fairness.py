"""How long a clip takes beside an hour-long file, by a clock that only the model advances.

The costs are those of the bundled model on two cores: seconds of an encoder batch and of a decode step by its rows.
"""

from collections.abc import Callable, Hashable, Iterator
from statistics import median

import numpy as np
import pytest

from ml.engine import continuous
from ml.engine.continuous import ContinuousScheduler
from ml.engine.fair_queue import FairQueue
from ml.engine.model_runner import Sequence
from ml.engine.request import Request, Retry
from ml.interfaces import RecognitionOptions, Waveform
from ml.transcript import Completion

ENCODE_S = {1: 0.14, 2: 0.28}  # by chunks
LAYERS = 4
PREFILL_S = 0.01  # a chunk
STEP_S, ROW_S = 0.005, 0.0004
FILE_TOKENS, CLIP_TOKENS = 60, 20
IDLE_S = ENCODE_S[1] + PREFILL_S + CLIP_TOKENS * (STEP_S + ROW_S)


class Clock:
    """Stands in for the module time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


class Batch:
    """Chunks encoded layer by layer."""

    def __init__(self, clock: Clock, chunks: int) -> None:
        self._clock = clock
        self._layer_s = ENCODE_S[chunks] / LAYERS
        self._left = LAYERS

    def advance(self, must_pause: Callable[[], bool]) -> None:
        while self._left:
            self._clock.now_s += self._layer_s
            self._left -= 1
            if must_pause():
                return

    def is_ready(self) -> bool:
        return not self._left


class TimedRunner:
    """A model that does nothing but take its time: as many tokens as the chunk's first sample says."""

    slots = 32
    encoder_batch = 2
    partial_steps = True
    pauses = True
    fast_path_failed = False
    max_chunk_samples = 1
    logger = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._finished: list[Sequence] = []
        self.on_progress: Callable[[], None] = lambda: None

    def encode(self, waveforms: list[Waveform]) -> Batch:
        return Batch(self._clock, len(waveforms))

    def prefill(self, sequences: list[Sequence], rows: list[int], batch: Batch) -> None:
        batch.advance(lambda: False)
        self._clock.now_s += PREFILL_S * len(rows)

    def step(self, sequences: list[Sequence], partial: bool) -> None:
        rows = len(sequences) if partial else sequences[-1].row + 1
        self._clock.now_s += STEP_S + ROW_S * rows
        for sequence in sequences:
            sequence.steps += 1
            if sequence.steps == sequence.request.waveform[0]:
                sequence.finished = True
                self._finished.append(sequence)

    def read_finished(self) -> list[Sequence]:
        finished, self._finished = self._finished, []
        return finished

    def complete(self, sequences: list[Sequence]) -> list[Completion]:
        return [Completion("") for _ in sequences]

    def move(self, row: int, to: int) -> None:
        pass

    def release(self, row: int) -> None:
        pass

    def clear(self) -> None:
        pass

    def recover(self, error: Exception) -> None:
        raise error


class Load:
    """Files that always have chunks waiting, and clips that arrive at given times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queue: FairQueue[Request] = FairQueue(10**6)
        self.scheduler = ContinuousScheduler(TimedRunner(clock))
        self.scheduler.waiting = self._waiting
        self._arriving: tuple[float, Request] | None = None

    def put(self, recording: Hashable, tokens: int, incremental: bool = False) -> Request:
        options = RecognitionOptions(incremental=incremental)
        request = Request(np.full(1, tokens, np.float32), recording, self._clock.now_s, options)
        self._queue.put(recording, request)
        return request

    def turn(self) -> None:
        """One turn of the engine's loop."""
        budget = self.scheduler.admission_budget(self._waiting())
        requests = self._queue.take(budget.chunks, False, budget.recordings) if budget.chunks else []
        if requests:
            self.scheduler.admit(requests)
        self.scheduler.advance()

    def run_until(self, done: Callable[[], bool]) -> float:
        started_s = self._clock.now_s
        while not done():
            self.turn()
        return self._clock.now_s - started_s

    def clip(self, name: str, after_s: float) -> float:
        """Seconds to its text from the arrival of a clip, which may fall into an encoder batch or a step."""
        arrival_s = self._clock.now_s + after_s
        request = Request(np.full(1, CLIP_TOKENS, np.float32), name, arrival_s)
        self._arriving = arrival_s, request
        self.run_until(request.future.done)
        return self._clock.now_s - arrival_s

    def _waiting(self) -> dict[Hashable, int]:
        """As the engine's queue gives it, with the clip that has arrived by now."""
        if self._arriving and self._clock.now_s >= self._arriving[0]:
            self._queue.put(self._arriving[1].recording_id, self._arriving[1])
            self._arriving = None
        return self._queue.waiting()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(continuous, "time", clock)
    return clock


@pytest.fixture
def load(clock: Clock) -> Load:
    """An hour-long file is being recognised."""
    load = Load(clock)
    for _ in range(2000):
        load.put("file", FILE_TOKENS)
    load.run_until(lambda: load.scheduler.stats.chunks > 100)
    return load


def clips(load: Load, count: int, pause_s: float) -> Iterator[float]:
    """Latencies of clips sent one after the other, up to twice `pause_s` after the one before."""
    for number in range(count):
        yield load.clip(f"clip {number}", 2 * pause_s * (number * 0.618 % 1))


def test_a_clip_beside_a_file_takes_little_longer_than_alone(load: Load) -> None:
    latencies_s = list(clips(load, 50, pause_s=0.5))
    assert median(latencies_s) <= 1.8 * IDLE_S
    assert max(latencies_s) <= 2.5 * IDLE_S


def test_the_file_keeps_most_of_its_throughput_beside_clips(load: Load, clock: Clock) -> None:
    before, started_s = load.scheduler.stats.chunks, clock.now_s
    alone_s = load.run_until(lambda: load.scheduler.stats.chunks >= before + 100) / 100
    started_s, done = clock.now_s, load.scheduler.stats.chunks
    list(clips(load, 30, pause_s=0.5))
    own_s = 30 * IDLE_S  # what the clips would take by themselves
    chunks = load.scheduler.stats.chunks - done - 30
    assert alone_s * chunks >= 0.9 * (clock.now_s - started_s - own_s)


def test_decoding_has_its_share_of_the_time_while_clips_wait(load: Load, clock: Clock) -> None:
    stats, started_s, before = load.scheduler.stats, clock.now_s, load.scheduler.stats.snapshot()
    pending = [load.put(f"clip {number}", CLIP_TOKENS) for number in range(60)]
    load.run_until(lambda: any(request.future.done() for request in pending[30:]))
    decoding_s = sum(stats.snapshot()[name] - before[name] for name in ("prefill_s", "step_s"))
    assert decoding_s / (clock.now_s - started_s) >= 0.25


def test_the_rows_fill_up_while_only_a_file_is_recognised(load: Load) -> None:
    stats, before = load.scheduler.stats, load.scheduler.stats.snapshot()
    load.run_until(lambda: stats.chunks >= before["chunks"] + 100)
    rows = (stats.stepped_rows - before["stepped_rows"]) / (stats.steps - before["steps"])
    assert rows >= TimedRunner.slots * 3 / 4


def test_the_rows_fill_up_while_several_files_are_recognised(load: Load) -> None:
    for number in range(5):
        for _ in range(500):
            load.put(f"another file {number}", FILE_TOKENS)
    stats = load.scheduler.stats
    load.run_until(lambda: stats.chunks >= 300)
    before = stats.snapshot()
    load.run_until(lambda: stats.chunks >= before["chunks"] + 300)
    rows = (stats.stepped_rows - before["stepped_rows"]) / (stats.steps - before["steps"])
    assert rows >= TimedRunner.slots * 3 / 4


def test_the_first_segment_of_an_incremental_call_comes_before_the_other_chunks(clock: Clock) -> None:
    load = Load(clock)
    first, *_ = [load.put("file", FILE_TOKENS, incremental=True) for _ in range(100)]
    first_s = load.run_until(first.future.done)
    assert first_s <= 2 * (ENCODE_S[2] + FILE_TOKENS * (STEP_S + 2 * ROW_S))


def test_the_rows_of_a_file_fill_up_from_its_start_where_no_segment_is_awaited_alone(clock: Clock) -> None:
    load = Load(clock)
    first, *others = [load.put("file", FILE_TOKENS) for _ in range(20)]
    load.run_until(lambda: all(request.future.done() for request in (first, *others)))
    assert load.scheduler.stats.steps <= 1.5 * FILE_TOKENS


def test_several_files_go_on_beside_clips_without_end(load: Load) -> None:
    for _ in range(500):
        load.put("another file", FILE_TOKENS)
    before = load.scheduler.stats.chunks
    list(clips(load, 60, pause_s=0.0))
    assert load.scheduler.stats.chunks - before - 60 >= 20


def test_a_clip_waits_for_a_layer_of_the_file_s_batch_and_not_for_the_batch(load: Load, clock: Clock) -> None:
    load.run_until(lambda: bool(load.scheduler.stats.groups) and not load.scheduler._encodings)
    for number in range(20):
        load.run_until(lambda: load.scheduler._shares.owed_s == 0.0)
        groups = load.scheduler.stats.groups
        load.run_until(lambda: load.scheduler.stats.groups > groups)  # noqa: B023
        assert load.clip(f"clip {number}", 0.0) <= 2 * IDLE_S


def test_chunks_of_a_file_recognised_again_overtake_nothing(load: Load, clock: Clock) -> None:
    load.run_until(lambda: not load.scheduler._encodings)
    load.put(Retry("file"), CLIP_TOKENS)
    budget = load.scheduler.admission_budget({"file": 1, Retry("file"): 1})
    assert budget.recordings is None
    assert load.scheduler.admission_budget({"file": 1, "clip": 1, Retry("file"): 1}).recordings == {"clip"}


def test_many_clips_at_once_are_served_as_soon_as_the_device_can(load: Load, clock: Clock) -> None:
    pending = [load.put(f"clip {number}", CLIP_TOKENS) for number in range(20)]
    elapsed_s = load.run_until(lambda: all(request.future.done() for request in pending))
    assert elapsed_s <= 2 * 20 * IDLE_S  # half of the encoder batches are the file's
