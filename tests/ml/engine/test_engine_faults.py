"""A chunk over which the model fails, fails alone; nothing stays in memory once a chunk is settled."""

import gc
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial

import pytest
import torch

from ml.borealis.runner import make_engine
from ml.engine import scheduler as scheduler_module
from ml.engine.request import Request
from ml.errors import EngineStoppedError, RecognitionError
from ml.transcript import Completion
from tests.support.fake_models import POISON, FakeModel, PausingModel, busy_engine, chunk, in_background, text, texts_of
from tests.support.waiting import HANG_LIMIT_S, wait_until


def assert_only_the_poison_failed(fake: FakeModel, numbers: list[int], futures: list["Future[Completion]"]) -> None:
    for number, future in zip(numbers, futures, strict=True):
        if number == POISON:
            error = future.exception(HANG_LIMIT_S)
            assert isinstance(error, RecognitionError)
            assert error.__cause__ is fake.error
        else:
            assert future.result(HANG_LIMIT_S).text == text(number, number)


@pytest.mark.parametrize("stage", ["encode", "prefill"])
@pytest.mark.parametrize("place", range(5))
def test_a_chunk_that_cannot_be_encoded_or_prefilled_fails_alone(
    fake: FakeModel, in_batches: None, device_pace: str, stage: str, place: int
) -> None:
    fake.poisoned = stage
    numbers = [1, 2, 3, 4]
    numbers.insert(place, POISON)
    with busy_engine(fake, slots=6) as engine:
        futures = [engine.submit(chunk(number, number)) for number in numbers]
        fake.gate.set()
        assert_only_the_poison_failed(fake, numbers, futures)
        assert engine.submit(chunk(7)).result(HANG_LIMIT_S).text == text(7)
    assert numbers in fake.calls(stage)  # they were one batch


@pytest.mark.parametrize("place", range(3))
def test_a_chunk_that_fails_in_a_layer_of_the_encoder_fails_alone(in_batches: None, place: int) -> None:
    model = PausingModel()
    model.poisoned = "layer"
    numbers = [1, 2]
    numbers.insert(place, POISON)
    with make_engine(model, 6) as engine:
        futures = [engine.submit(chunk(number, number)) for number in numbers]
        assert_only_the_poison_failed(model, numbers, futures)
        assert engine.submit(chunk(7)).result(HANG_LIMIT_S).text == text(7)


@pytest.mark.parametrize("stage", ["step", "decode"])
@pytest.mark.parametrize("place", range(5))
def test_a_chunk_that_breaks_a_step_or_its_text_fails_alone(
    fake: FakeModel, device_pace: str, stage: str, place: int
) -> None:
    fake.poisoned = stage
    numbers = [8, 9, 7, 8, 10]
    numbers.insert(place, POISON)
    with busy_engine(fake, slots=3) as engine:
        futures = [engine.submit(chunk(number, number if number != POISON else 8)) for number in numbers]
        fake.gate.set()
        assert_only_the_poison_failed(fake, numbers, futures)
        assert engine.submit(chunk(7)).result(HANG_LIMIT_S).text == text(7)


def test_a_batch_still_being_encoded_survives_a_step_that_fails(
    fake: FakeModel, in_batches: None, device_pace: str
) -> None:
    fake.poisoned = "step"
    numbers = [5, POISON, 6, 7, 8, 9, 10, 11]
    with busy_engine(fake, slots=8) as engine:
        for step in range(1, 6):  # one batch after another is encoded while others are stepped
            fake.at_step[step] = lambda: futures.append(engine.submit(chunk(3, 3), recording_id=object()))
        futures = [engine.submit(chunk(number, number if number != POISON else 9)) for number in numbers]
        fake.gate.set()
        assert_only_the_poison_failed(fake, numbers, futures[: len(numbers)])
        assert texts_of(futures[len(numbers) :]) == [text(3)] * 5


def test_a_batch_too_large_for_the_memory_is_halved_until_it_fits(fake: FakeModel, in_batches: None) -> None:
    fake.largest_batch = 2
    with busy_engine(fake, slots=16) as engine:
        futures = [engine.submit(chunk(number)) for number in range(1, 9)]
        fake.gate.set()
        assert texts_of(futures) == [text(number) for number in range(1, 9)]
    assert [len(batch) for batch in fake.calls("encode")] == [1, 5, 2, 3, 1, 2, 3, 1, 2]
    assert max(map(len, fake.calls("prefill"))) == 2


class SlowModel(FakeModel):
    """Takes SLOW_S of `now_s` for each call, and notes how long the engine seemed silent at the end of each."""

    SLOW_S = 100.0

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.silences_s: list[float] = []
        self.silence: Callable[[], float] = lambda: 0.0

    def monotonic(self) -> float:
        return self.now_s

    def enter(self, stage: str, numbers: list[int]) -> None:
        if stage != "decode":  # the tokenizer's
            self.now_s += self.SLOW_S
            self.silences_s.append(self.silence())
        super().enter(stage, numbers)


@pytest.mark.parametrize("poisoned", ["nothing", "encode", "prefill", "step"])
def test_a_slow_model_is_never_silent_longer_than_one_chunk_or_step_takes(
    in_batches: None, monkeypatch: pytest.MonkeyPatch, poisoned: str
) -> None:
    slow = SlowModel()
    slow.poisoned = poisoned
    monkeypatch.setattr(scheduler_module, "time", slow)
    with busy_engine(slow, slots=6) as engine:
        slow.silence = lambda: engine.busy_without_progress_s
        futures = [engine.submit(chunk(number, 5)) for number in (1, 2, POISON, 3, 4)]
        slow.gate.set()
        wait(futures, HANG_LIMIT_S)
    assert len(slow.silences_s) > 5
    assert max(slow.silences_s) == slow.SLOW_S


def test_a_chunk_too_large_for_the_memory_by_itself_fails(fake: FakeModel) -> None:
    fake.largest_batch = 0
    with make_engine(fake, 2) as engine:
        error = engine.submit(chunk(1)).exception(HANG_LIMIT_S)
        assert isinstance(error, RecognitionError)
        assert isinstance(error.__cause__, torch.OutOfMemoryError)
        fake.largest_batch = 1
        assert engine.submit(chunk(2)).result(HANG_LIMIT_S).text == text(2)


def test_a_failure_is_logged_with_its_cause(fake: FakeModel, caplog: pytest.LogCaptureFixture) -> None:
    fake.poisoned = "encode"
    with make_engine(fake, 2) as engine:
        engine.submit(chunk(POISON)).exception(HANG_LIMIT_S)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("BorealisModel", logging.WARNING)
    assert record.exc_info is not None
    assert record.exc_info[1] is fake.error


@pytest.mark.parametrize("outcome", ["text", "cancelled", "encode", "prefill", "step", "decode"])
def test_the_waveform_is_freed_when_its_chunk_is_settled(
    fake: FakeModel, device_pace: str, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    monkeypatch.setattr(
        logging.getLogger("BorealisModel"), "disabled", True
    )  # pytest keeps what is logged, errors and all
    fake.poisoned = outcome
    with busy_engine(fake, slots=2) as engine:
        sound = chunk(POISON, 9)
        trace = weakref.ref(sound)
        future = engine.submit(sound)
        del sound
        if outcome == "cancelled":
            fake.at_step[4] = future.cancel
        gc.disable()  # no reference cycle may hold it either
        try:
            fake.gate.set()
            wait([future], HANG_LIMIT_S)
            wait_until(lambda: trace() is None)
        finally:
            gc.enable()
        assert future.done()  # and is still held here


def test_the_waveform_of_a_chunk_cancelled_in_the_queue_is_freed(fake: FakeModel) -> None:
    with busy_engine(fake) as engine:
        sound = chunk(1)
        trace = weakref.ref(sound)
        future = engine.submit(sound)
        del sound
        future.cancel()
        assert trace() is None


def test_a_text_that_comes_after_all_were_aborted_harms_nothing(
    fake: FakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    with busy_engine(fake, slots=4) as engine:
        futures = [engine.submit(chunk(number)) for number in range(1, 4)]
        engine.abort_all()
        for future in futures:
            assert isinstance(future.exception(HANG_LIMIT_S), EngineStoppedError)
    assert fake.calls("decode") == [[0]]  # the hung thread went on to the end
    assert caplog.records == []


def both_at_once(*ways: Callable[[], object]) -> None:
    """Runs both, each on a thread of its own, from the same moment; raises what either raises."""
    start = threading.Barrier(len(ways))
    outcomes = [in_background(lambda way=way: (start.wait(), way())) for way in ways]
    for outcome in outcomes:
        outcome.result(HANG_LIMIT_S)


def test_a_chunk_aborted_while_its_text_arrives_has_one_outcome() -> None:
    for _ in range(300):
        request = Request(chunk(1), recording_id=None, submitted_s=0.0)
        both_at_once(partial(request.complete, "text"), request.abort)
        assert request.future.exception(HANG_LIMIT_S) is not None or request.future.result().text == "text"


def test_a_cancelled_chunk_stays_cancelled() -> None:
    request = Request(chunk(1), recording_id=None, submitted_s=0.0)
    request.future.cancel()
    request.cancel()
    request.cancel()
    request.complete("text")
    request.abort()
    assert request.future.cancelled()
