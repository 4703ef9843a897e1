"""Micro-batching: whole batches on several workers, with the same queue, isolation and heartbeat as any engine."""

import logging
import threading
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import wait

import numpy as np
import pytest

from ml.engine.engine import Engine
from ml.engine.micro_batch import MicroBatchScheduler
from ml.engine.request import Request
from ml.engine.scheduler import Budget
from ml.errors import EngineStoppedError, RecognitionError
from ml.interfaces import Waveform
from ml.transcript import Completion
from tests.support.waiting import HANG_LIMIT_S, wait_until

POISON, FATAL = 666, 667


class DeviceLost(Exception):
    pass


class NumberModel:
    """Answers each chunk with its first sample and its length; `gate` holds all batches."""

    max_chunk_samples = 100
    logger = logging.getLogger("NumberModel")

    def __init__(self, batch_size: int = 4, workers: int = 1, spare_workers: int = 0) -> None:
        self.batch_size, self.workers, self.spare_workers = batch_size, workers, spare_workers
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []  # the chunks' numbers, batch by batch
        self.lengths: list[list[int]] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()

    def recognise(self, requests: Sequence[Request]) -> list[Completion]:
        numbers = [int(request.waveform[0]) for request in requests]
        with self._lock:
            self.batches.append(numbers)
            self.lengths.append([len(request.waveform) for request in requests])
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        assert self.gate.wait(HANG_LIMIT_S)
        with self._lock:
            self._at_once -= 1
        if POISON in numbers:
            raise ValueError("poisoned")
        if FATAL in numbers:
            raise DeviceLost
        return [Completion(f"{number}") for number in numbers]

    def is_fatal(self, error: Exception) -> bool:
        return isinstance(error, DeviceLost)


def chunk(number: int, length: int = 3) -> Waveform:
    return np.full(length, number, np.float32)


@pytest.fixture
def model() -> NumberModel:
    return NumberModel()


@pytest.fixture
def engine(model: NumberModel) -> Iterator[Engine]:
    with Engine(MicroBatchScheduler(model)) as engine:
        yield engine
        model.gate.set()


def hold(model: NumberModel, engine: Engine) -> None:
    """Occupy every worker with a batch that waits for the gate."""
    model.gate.clear()
    for number in range(model.workers):
        engine.submit(chunk(number), recording_id="the first")
        wait_until(lambda count=number + 1: len(model.batches) == count)  # type: ignore[misc]


def test_each_caller_gets_the_completion_of_its_own_chunk(engine: Engine) -> None:
    futures = [engine.submit(chunk(number, 3 + number % 5), recording_id=number % 3) for number in range(1, 40)]
    assert [future.result(HANG_LIMIT_S).text for future in futures] == [str(number) for number in range(1, 40)]
    assert engine.stats.chunks == 39


def test_what_waits_goes_into_one_batch_sorted_by_length(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = [engine.submit(chunk(number, length)) for number, length in [(1, 9), (2, 5), (3, 7)]]
    model.gate.set()
    wait(futures, HANG_LIMIT_S)
    assert model.batches[1] == [2, 3, 1]


def test_no_batch_is_larger_than_the_model_allows(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = [engine.submit(chunk(number)) for number in range(1, 12)]
    model.gate.set()
    wait(futures, HANG_LIMIT_S)
    assert max(map(len, model.batches)) == 4


def test_all_workers_share_what_waits() -> None:
    model = NumberModel(batch_size=4, workers=2)
    with Engine(MicroBatchScheduler(model)) as engine:
        hold(model, engine)
        assert model.most_at_once == 2
        futures = [engine.submit(chunk(number)) for number in range(1, 9)]
        model.gate.set()
        assert [future.result(HANG_LIMIT_S).text for future in futures] == [str(number) for number in range(1, 9)]


def test_a_free_worker_takes_a_new_chunk_while_another_is_busy() -> None:
    model = NumberModel(workers=2)
    with Engine(MicroBatchScheduler(model)) as engine:
        model.gate.clear()
        engine.submit(chunk(1))
        wait_until(lambda: len(model.batches) == 1)
        engine.submit(chunk(2))
        wait_until(lambda: len(model.batches) == 2)
        model.gate.set()


def test_recordings_take_turns(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = [engine.submit(chunk(number), recording_id="a long file") for number in range(10, 20)]
    futures += [engine.submit(chunk(1), recording_id="a clip")]
    model.gate.set()
    wait(futures, HANG_LIMIT_S)
    assert 1 in model.batches[1]  # with the first of the file, which is new as well


def test_a_clip_beside_a_long_recording_does_not_wait_for_its_batches() -> None:
    model = NumberModel(workers=2, spare_workers=1)
    with Engine(MicroBatchScheduler(model)) as engine:
        hold(model, engine)
        for number in range(10, 30):
            engine.submit(chunk(number), recording_id="the first")
        engine.submit(chunk(5), recording_id="a clip")
        wait_until(lambda: model.batches[2:] == [[5]])
        model.gate.set()


@pytest.mark.parametrize(
    ("workers", "in_flight", "waiting", "budget"),
    [
        pytest.param(2, ["file"], {"file": 9, "clip": 1}, Budget(1, {"clip"}), id="first, without the file's chunks"),
        pytest.param(1, ["file", "file"], {"clip": 1}, Budget(1, {"clip"}), id="beside the end of a file"),
        pytest.param(1, ["clip before", "another"], {"clip": 1}, Budget(0), id="beside clips"),
        pytest.param(2, ["file"], {"file": 9}, Budget(4), id="a file alone"),
        pytest.param(2, ["file"], {"file": 5}, Budget(3), id="the end of a file"),
    ],
)
def test_new_recordings_go_first_and_beside_long_ones_on_the_spare_worker(
    workers: int, in_flight: list[str], waiting: dict[Hashable, int], budget: Budget
) -> None:
    model = NumberModel(workers=workers, spare_workers=1)
    model.gate.clear()
    scheduler = MicroBatchScheduler(model)
    scheduler.admit([Request(chunk(1), recording_id, 0.0) for recording_id in in_flight])
    assert scheduler.admission_budget(waiting) == budget
    model.gate.set()
    scheduler.advance()
    scheduler.clear()


def test_the_spare_worker_is_not_for_the_long_recording_itself() -> None:
    model = NumberModel(workers=2, spare_workers=1)
    with Engine(MicroBatchScheduler(model)) as engine:
        hold(model, engine)
        futures = [engine.submit(chunk(number), recording_id="the first") for number in range(10, 30)]
        model.gate.set()
        wait(futures, HANG_LIMIT_S)
        assert model.most_at_once == 2


def test_clips_alone_are_batched_rather_than_given_to_the_spare_worker() -> None:
    model = NumberModel(workers=2, spare_workers=1)
    with Engine(MicroBatchScheduler(model)) as engine:
        model.gate.clear()
        futures = [engine.submit(chunk(number), recording_id=number) for number in range(2)]
        wait_until(lambda: sum(map(len, model.batches)) == 2)
        futures += [engine.submit(chunk(number), recording_id=number) for number in range(2, 10)]
        model.gate.set()
        wait(futures, HANG_LIMIT_S)
        assert model.most_at_once == 2
        assert max(map(len, model.batches)) == 4


def test_no_recording_starves_beside_a_stream_of_new_ones(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    long = [engine.submit(chunk(number), recording_id="a long file") for number in range(10, 16)]
    clips = [engine.submit(chunk(100 + number), recording_id=number) for number in range(40)]
    model.gate.set()
    assert wait([*long, *clips], HANG_LIMIT_S).not_done == set()
    first_ten = [number for batch in model.batches[:4] for number in batch]
    assert any(10 <= number < 16 for number in first_ten)


def test_the_workers_share_the_end_of_a_recording() -> None:
    model = NumberModel(batch_size=8, workers=2)
    with Engine(MicroBatchScheduler(model)) as engine:
        hold(model, engine)
        futures = [engine.submit(chunk(number), recording_id="the first") for number in range(10, 18)]
        model.gate.set()
        wait(futures, HANG_LIMIT_S)
        assert max(map(len, model.batches)) == 4


def test_a_chunk_at_fault_fails_alone(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = {number: engine.submit(chunk(number)) for number in (1, 2, POISON, 3)}
    model.gate.set()
    with pytest.raises(RecognitionError):
        futures.pop(POISON).result(HANG_LIMIT_S)
    assert {number: future.result(HANG_LIMIT_S).text for number, future in futures.items()} == {1: "1", 2: "2", 3: "3"}


def test_a_chunk_cancelled_in_the_queue_never_reaches_the_model(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    cancelled, kept = engine.submit(chunk(1)), engine.submit(chunk(2))
    assert cancelled.cancel()
    model.gate.set()
    assert kept.result(HANG_LIMIT_S).text == "2"
    assert [1] not in model.batches and all(1 not in batch for batch in model.batches)


def test_a_chunk_cancelled_in_a_batch_changes_nothing_for_the_others(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = [engine.submit(chunk(number)) for number in (1, 2)]
    model.gate.set()
    wait_until(lambda: len(model.batches) >= 2)
    futures[0].cancel()
    assert futures[1].result(HANG_LIMIT_S).text == "2"


def test_a_lost_device_ends_the_engine_and_asks_every_caller_to_retry(model: NumberModel, engine: Engine) -> None:
    hold(model, engine)
    futures = [engine.submit(chunk(FATAL)), engine.submit(chunk(1))]
    model.gate.set()
    for future in futures:
        with pytest.raises(EngineStoppedError):
            future.result(HANG_LIMIT_S)
    wait_until(lambda: not engine.is_alive)


def test_a_batch_that_hangs_shows_in_the_heartbeat(model: NumberModel, engine: Engine) -> None:
    assert engine.busy_without_progress_s == 0.0
    hold(model, engine)
    wait_until(lambda: engine.busy_without_progress_s > 0.05)
    model.gate.set()
    wait_until(lambda: engine.busy_without_progress_s == 0.0)


def test_closing_finishes_what_is_in_flight_and_cancels_what_waits(model: NumberModel) -> None:
    engine = Engine(MicroBatchScheduler(model))
    hold(model, engine)
    waiting = engine.submit(chunk(5))
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(waiting.cancelled)
    model.gate.set()
    closing.join(HANG_LIMIT_S)
    assert not engine.is_alive
