"""Rows 30, 31, 34 and 39 to 43: chunks of several requests share the engine, and one of them, or the engine, fails."""

import signal
import time
from contextlib import suppress
from typing import Any

import grpc
import pytest

from api.grpc.transcription_server import EXIT_UNHEALTHY, SHUTDOWN_MARGIN_S
from ml.borealis import load
from ml.borealis import runner as batching
from ml.borealis.runner import make_engine
from ml.engine.engine import Engine
from services.transcription.implementations import BorealisTranscriptionService
from tests.faults.conftest import OpenHouse
from tests.support.harness import PATIENCE_S, Health, ServerHarness, assert_refused
from tests.support.marks import row
from tests.support.scripted_model import DIE, HANG, POISON, STICKY, ScriptedModel, spoken, text
from tests.support.server_process import served

Code = grpc.StatusCode
EXIT_S = 20  # at most, from the fault to the end of the process; on a busy machine


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def house(start_server: OpenHouse, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> ServerHarness:
    """The real implementation and engine around a fake model, which encodes up to five chunks together."""
    monkeypatch.setitem(batching.STEPS_BETWEEN_BATCHES, "cpu", 0)
    monkeypatch.setattr(batching, "ENCODER_BATCH", {"cpu": 5})

    def load_engine(options: object) -> Engine:
        model.engine = make_engine(model, slots=8)
        return model.engine

    monkeypatch.setattr(load, "load_engine", load_engine)
    return start_server(BorealisTranscriptionService(), control=spoken(7), server_max_workers=8)


def begin_together(house: ServerHarness, model: ScriptedModel, *numbers: int, length: int = 3) -> list[Any]:
    """Calls whose chunks wait for the engine together; it is held at another one, number 1, before them."""
    model.hold()
    calls = [house.begin(spoken(1))]
    assert model.at_work.wait(PATIENCE_S)
    for number in numbers:
        calls.append(house.begin(spoken(number, length)))
        time.sleep(0.1)  # in this order
    return calls


def assert_says(call: Any, number: int, length: int = 3) -> None:
    response = call.result(timeout=PATIENCE_S)
    assert response.success and response.transcript == text(number, length)


@row(30)
def test_a_call_cancelled_in_the_queue_is_never_recognised_and_its_mates_are(
    house: ServerHarness, model: ScriptedModel
) -> None:
    calls = begin_together(house, model, 2, 3, 4)
    calls[2].cancel()
    time.sleep(0.3)
    model.gate.set()
    for call, number in zip(calls, (1, 2, 3, 4), strict=True):
        if number != 3:
            assert_says(call, number)
    assert not any(3 in numbers for _, numbers in model.log)


@row(30)
def test_a_call_cancelled_in_a_batch_leaves_it_and_its_mates_are_right(
    house: ServerHarness, model: ScriptedModel
) -> None:
    recognised = model.engine.stats.chunks
    calls = begin_together(house, model, 2, 3, 4, length=30)
    steps = len(model.calls("step"))

    def cancel() -> None:
        calls[2].cancel()
        time.sleep(0.5)  # until the server has heard of it

    model.at_step[steps + 12] = cancel
    model.gate.set()
    for call, number, length in zip(calls, (1, 2, 3, 4), (3, 30, 30, 30), strict=True):
        if number == 3:
            assert call.cancelled()
        else:
            assert_says(call, number, length)
    assert any({2, 3, 4} <= set(numbers) for numbers in model.calls("step")[steps:])  # it was seated with its mates
    assert model.engine.stats.chunks == recognised + 3  # and never came to its end


@row(31)
def test_a_deadline_evicts_what_waits_for_the_engine(house: ServerHarness, model: ScriptedModel) -> None:
    calls = begin_together(house, model, 2)
    late = house.begin(spoken(3), timeout_s=0.5)
    started_s = time.monotonic()
    assert late.exception(timeout=PATIENCE_S) is not None
    assert late.code() is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - started_s < 5
    time.sleep(0.3)
    model.gate.set()
    assert_says(calls[0], 1)
    assert_says(calls[1], 2)
    assert not any(3 in numbers for _, numbers in model.log)


@row(39)
@pytest.mark.parametrize("stage", ["encode", "prefill", "step", "decode"])
def test_one_poisoned_recording_in_a_batch_fails_and_its_mates_are_right(
    house: ServerHarness, model: ScriptedModel, stage: str
) -> None:
    model.poisoned = stage
    calls = begin_together(house, model, 2, POISON, 4, length=9)
    model.gate.set()
    for call, number, length in zip(calls, (1, 2, POISON, 4), (3, 9, 9, 9), strict=True):
        if number != POISON:
            assert_says(call, number, length)
    assert any(POISON in numbers and len(numbers) > 1 for numbers in model.calls(stage)) or stage == "decode"
    response = calls[2].result(timeout=PATIENCE_S)
    assert not response.success and response.transcript == ""
    assert dict(calls[2].trailing_metadata())["x-error-code"] == "RECOGNITION_FAILED"


@row(40)
def test_a_batch_too_large_for_the_memory_is_halved_and_all_succeed(house: ServerHarness, model: ScriptedModel) -> None:
    calls = begin_together(house, model, 2, 3, 4, 5)
    model.largest_batch = 1
    model.gate.set()
    for number, call in enumerate(calls, start=1):
        assert_says(call, number)
    assert any(len(numbers) > 1 for numbers in model.calls("encode"))  # there was a batch


@row(41)
def test_a_recording_too_large_for_the_memory_by_itself_is_refused(house: ServerHarness, model: ScriptedModel) -> None:
    model.largest_batch = 0
    assert_refused(house.both(spoken(2)), "RECOGNITION_FAILED")
    model.largest_batch = 10


def rest_of(updates: Any) -> list[int]:
    """What the health service says until it says no more."""
    heard: list[int] = []
    with suppress(grpc.RpcError):
        for update in updates:
            heard.append(update.status)
    return heard


@row(42)
@pytest.mark.slow
def test_a_sticky_device_error_ends_the_process_and_a_restart_serves() -> None:
    with served("engine") as server:
        assert server.ask(spoken(7)).transcript == text(7)
        calls = [server.begin(spoken(number)) for number in (STICKY, 2, 3)]
        for call in calls:
            assert call.exception(timeout=PATIENCE_S) is not None, call.result()
            assert call.code() is Code.UNAVAILABLE
        code, _ = server.wait(EXIT_S)
        assert code not in (0, -9)
    with served("engine") as server:
        assert server.ask(spoken(7)).transcript == text(7)


@row(43)
@pytest.mark.slow
@pytest.mark.parametrize("fault", [HANG, DIE])
def test_an_engine_that_hangs_or_dies_ends_the_process(fault: int) -> None:
    with served("engine", WATCHDOG_TIMEOUT_S="1", SHUTDOWN_GRACE_S="1") as server:
        assert server.ask(spoken(7)).transcript == text(7)
        updates = server.watch()
        call = server.begin(spoken(fault))
        code, _ = server.wait(EXIT_S)
        assert code not in (0, -9)
        assert call.exception(timeout=PATIENCE_S) is not None or not call.result().success
        heard = rest_of(updates)
    assert heard[0] == Health.SERVING
    assert Health.NOT_SERVING in heard


@row(34)
@pytest.mark.slow
def test_an_engine_that_hangs_does_not_keep_a_stopping_server_from_ending() -> None:
    with served("engine", SHUTDOWN_GRACE_S="1") as server:
        call = server.begin(spoken(HANG))
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        code, waited_s = server.wait(1 + SHUTDOWN_MARGIN_S + EXIT_S)
        assert code == EXIT_UNHEALTHY and waited_s > 1
        assert call.code() in (Code.UNAVAILABLE, Code.CANCELLED)
