"""Rows 30, 31, 34 and 39 to 43: chunks of several requests share the engine, and one of them, or the engine, fails."""

import signal
from contextlib import suppress
from typing import Any

import grpc
import pytest

from api.grpc.transcription_server import EXIT_UNHEALTHY
from ml.borealis import load, runner
from ml.borealis.runner import make_engine
from ml.engine import continuous
from ml.engine.engine import Engine
from services.transcription.implementations import BorealisTranscriptionService
from tests.faults.conftest import StartServer
from tests.support.harness import Health, ServerHarness, assert_rejected
from tests.support.marks import row
from tests.support.scripted_model import DIE, HANG, HANGING, POISON, STICKY, ScriptedModel, spoken, text
from tests.support.server_process import served
from tests.support.waiting import HANG_LIMIT_S, wait_until_equal

Code = grpc.StatusCode


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def server(start_server: StartServer, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch) -> ServerHarness:
    """The real implementation and engine around a fake model, which encodes up to five chunks together."""
    monkeypatch.setattr(continuous, "DECODE_SHARE", 0.0)
    monkeypatch.setattr(continuous, "URGENT_SHARE", 0.0)
    monkeypatch.setattr(runner, "ENCODER_BATCH", {"cpu": 5})

    def load_engine(options: object) -> Engine:
        model.engine = make_engine(model, slots=8)
        return model.engine

    monkeypatch.setattr(load, "load_engine", load_engine)
    return start_server(BorealisTranscriptionService(), control=spoken(7), server_max_workers=8)


def begin_together(server: ServerHarness, model: ScriptedModel, *numbers: int, length: int = 3) -> list[Any]:
    """Calls whose chunks wait for the engine in this order while it is held at another one, number 1."""
    model.hold()
    calls = [server.begin(spoken(1))]
    assert model.at_work.wait(HANG_LIMIT_S)
    for waiting, number in enumerate(numbers, start=1):
        calls.append(server.begin(spoken(number, length)))
        wait_until_equal(lambda: server.service.gauges()["queued_chunks"], waiting)
    return calls


def assert_text(call: Any, number: int, length: int = 3) -> None:
    response = call.result(timeout=HANG_LIMIT_S)
    assert response.success and response.transcript == text(number, length)


def cancel(server: ServerHarness, call: Any) -> None:
    """Cancel a call and wait until the server has ended it."""
    before = server.calls_ended("CANCELLED")
    call.cancel()
    wait_until_equal(lambda: server.calls_ended("CANCELLED"), before + 1)


@row(30)
def test_a_call_cancelled_in_the_queue_is_never_recognised_and_its_mates_are(
    server: ServerHarness, model: ScriptedModel
) -> None:
    calls = begin_together(server, model, 2, 3, 4)
    cancel(server, calls[2])
    model.gate.set()
    for call, number in zip(calls, (1, 2, 3, 4), strict=True):
        if number != 3:
            assert_text(call, number)
    assert not any(3 in numbers for _, numbers in model.log)


@row(30)
def test_a_call_cancelled_in_a_batch_leaves_it_and_its_mates_are_right(
    server: ServerHarness, model: ScriptedModel
) -> None:
    recognised = model.engine.stats.chunks
    calls = begin_together(server, model, 2, 3, 4, length=30)
    steps = len(model.calls("step"))
    model.at_step[steps + 12] = lambda: cancel(server, calls[2])
    model.gate.set()
    for call, number, length in zip(calls, (1, 2, 3, 4), (3, 30, 30, 30), strict=True):
        if number == 3:
            assert call.cancelled()
        else:
            assert_text(call, number, length)
    assert any({2, 3, 4} <= set(numbers) for numbers in model.calls("step")[steps:])  # it was decoded with its mates
    assert model.engine.stats.chunks == recognised + 3  # and never finished


@row(31)
def test_a_deadline_evicts_what_waits_for_the_engine(server: ServerHarness, model: ScriptedModel) -> None:
    calls = begin_together(server, model, 2)
    before = server.calls_ended("CANCELLED")
    late = server.begin(spoken(3), timeout_s=0.5)
    assert late.exception(timeout=HANG_LIMIT_S) is not None
    assert late.code() is Code.DEADLINE_EXCEEDED
    wait_until_equal(lambda: server.calls_ended("CANCELLED"), before + 1)
    model.gate.set()
    assert_text(calls[0], 1)
    assert_text(calls[1], 2)
    assert not any(3 in numbers for _, numbers in model.log)


@row(39)
@pytest.mark.parametrize("stage", ["encode", "prefill", "step", "decode"])
def test_one_poisoned_recording_in_a_batch_fails_and_its_mates_are_right(
    server: ServerHarness, model: ScriptedModel, stage: str
) -> None:
    model.poisoned = stage
    calls = begin_together(server, model, 2, POISON, 4, length=9)
    model.gate.set()
    for call, number, length in zip(calls, (1, 2, POISON, 4), (3, 9, 9, 9), strict=True):
        if number != POISON:
            assert_text(call, number, length)
    assert any(POISON in numbers and len(numbers) > 1 for numbers in model.calls(stage)) or stage == "decode"
    response = calls[2].result(timeout=HANG_LIMIT_S)
    assert not response.success and response.transcript == ""
    assert dict(calls[2].trailing_metadata())["x-error-code"] == "RECOGNITION_FAILED"


@row(40)
def test_a_batch_too_large_for_the_memory_is_halved_and_all_succeed(
    server: ServerHarness, model: ScriptedModel
) -> None:
    calls = begin_together(server, model, 2, 3, 4, 5)
    model.largest_batch = 1
    model.gate.set()
    for number, call in enumerate(calls, start=1):
        assert_text(call, number)
    assert any(len(numbers) > 1 for numbers in model.calls("encode"))  # there was a batch


@row(41)
def test_a_recording_too_large_for_the_memory_by_itself_is_rejected(
    server: ServerHarness, model: ScriptedModel
) -> None:
    model.largest_batch = 0
    assert_rejected(server.transcribe_every_way(spoken(2)), "RECOGNITION_FAILED")
    model.largest_batch = 10


def statuses_until_the_end(updates: Any) -> list[int]:
    """The statuses that the health service reports until the stream ends."""
    statuses: list[int] = []
    with suppress(grpc.RpcError):
        for update in updates:
            statuses.append(update.status)
    return statuses


@row(42)
@pytest.mark.slow
def test_a_sticky_device_error_ends_the_process_and_a_restart_serves() -> None:
    with served("engine") as server:
        assert server.transcribe(spoken(7)).transcript == text(7)
        sticky, *others = [server.begin(spoken(number)) for number in (STICKY, 2, 3)]
        assert sticky.exception(timeout=HANG_LIMIT_S) is not None, sticky.result()
        assert sticky.code() is Code.UNAVAILABLE
        for number, call in enumerate(others, start=2):
            if call.exception(timeout=HANG_LIMIT_S) is None:  # answered before the device broke
                assert_text(call, number)
            else:
                assert call.code() is Code.UNAVAILABLE
        assert server.exit_code() not in (0, -signal.SIGKILL)
    with served("engine") as server:
        assert server.transcribe(spoken(7)).transcript == text(7)


@row(43)
@pytest.mark.slow
@pytest.mark.parametrize("fault", [HANG, DIE])
def test_an_engine_that_hangs_or_dies_ends_the_process(fault: int) -> None:
    with served("engine", WATCHDOG_TIMEOUT_S="1", SHUTDOWN_GRACE_S="1") as server:
        assert server.transcribe(spoken(7)).transcript == text(7)
        updates = server.watch()
        assert next(updates).status == Health.SERVING
        call = server.begin(spoken(fault))
        assert server.exit_code() not in (0, -signal.SIGKILL)
        assert call.exception(timeout=HANG_LIMIT_S) is not None or not call.result().success
        assert Health.NOT_SERVING in statuses_until_the_end(updates)


@row(34)
@pytest.mark.slow
def test_an_engine_that_hangs_does_not_keep_a_stopping_server_from_ending() -> None:
    with served("engine", SHUTDOWN_GRACE_S="1") as server:
        call = server.begin(spoken(HANG))
        server.wait_until_printed(HANGING)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == EXIT_UNHEALTHY
        assert call.code() in (Code.UNAVAILABLE, Code.CANCELLED)
