"""Row 28 and its neighbours: whatever strangers make of health checks and reflection, health answers."""

import time
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.grpc import health, server
from api.grpc.reflection import REFLECTION_WORKERS
from generated.v1 import transcription_pb2
from tests.faults.conftest import OpenHouse
from tests.support import process_stats as belongings
from tests.support import recordings
from tests.support.harness import PATIENCE_S, SERVICE_NAME, Health, ServerHarness, assert_transcribed
from tests.support.marks import row
from tests.support.raw_http2 import HalfCall, NonReadingCall

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
Code = grpc.StatusCode


def watch(house: ServerHarness, service: str = SERVICE_NAME) -> Any:
    return health_pb2_grpc.HealthStub(house.channel).Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


@row(28)
@pytest.mark.parametrize("method", [CHECK, WATCH])
def test_half_sent_health_checks_do_not_keep_health_from_answering(
    start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(server, "PEER_TIMEOUT_S", 0.5)
    house = start_server()
    with ExitStack() as halves:
        for _ in range(2 * health.HEALTH_WORKERS):
            halves.enter_context(HalfCall(house.server.port, method))
        time.sleep(0.3)
        assert house.health() == Health.SERVING


def test_watchers_who_take_nothing_do_not_keep_health_from_answering_and_changing(
    start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PEER_TIMEOUT_S", 0.5)
    house = start_server()
    message = health_pb2.HealthCheckRequest(service=SERVICE_NAME).SerializeToString()
    with ExitStack() as deaf:
        for _ in range(2 * health.HEALTH_WORKERS):
            deaf.enter_context(NonReadingCall(house.server.port, WATCH, message))
        time.sleep(0.3)
        updates = watch(house)
        assert house.health() == next(updates).status == Health.SERVING
        house.server._health.set_serving(False)
        assert next(updates).status == Health.NOT_SERVING
        house.server._health.set_serving(True)
        assert next(updates).status == Health.SERVING
        updates.cancel()


def test_nothing_is_kept_of_those_who_watched(start_server: OpenHouse) -> None:
    house = start_server()
    for number in range(20):
        updates = watch(house, f"a service of no server, {number}")
        assert next(updates).status == Health.SERVICE_UNKNOWN
        updates.cancel()
    belongings.assert_settles(lambda: house.server._health._watchers)


def test_no_more_than_so_many_may_watch(start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_WATCHERS", 2)
    house = start_server()
    watching = [watch(house), watch(house, "unknown")]
    for updates in watching:
        next(updates)
    with pytest.raises(grpc.RpcError) as refusal:
        next(watch(house))
    assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
    assert house.health() == Health.SERVING
    watching[0].cancel()
    belongings.assert_settles(lambda: len(house.server._health._watchers), 1)
    third = watch(house)
    assert next(third).status == Health.SERVING
    for updates in (watching[1], third):
        updates.cancel()


def test_a_check_of_an_unknown_service_finds_nothing(start_server: OpenHouse) -> None:
    house = start_server()
    with pytest.raises(grpc.RpcError) as refusal:
        health_pb2_grpc.HealthStub(house.channel).Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
    assert refusal.value.code() is Code.NOT_FOUND


def test_open_reflection_streams_hold_no_worker_and_are_ended(
    start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PEER_TIMEOUT_S", 0.5)
    house = start_server(server_reflection=True, server_max_workers=1)
    with ExitStack() as halves:
        for _ in range(2 * REFLECTION_WORKERS):
            halves.enter_context(HalfCall(house.server.port, REFLECTION))
        assert_transcribed([house.ask(recordings.control())], recordings.CONTROL_S)
        stub = reflection_pb2_grpc.ServerReflectionStub(house.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
        assert SERVICE_NAME in [service.name for service in answer.list_services_response.service]


def test_a_caller_who_takes_nothing_of_the_answer_frees_its_worker(start_server: OpenHouse) -> None:
    house = start_server(stream_idle_timeout_s=0.5, server_max_workers=1)
    message = transcription_pb2.AudioChunk(chunk_data=recordings.control(), filename="a.wav").SerializeToString()
    with NonReadingCall(house.server.port, f"/{SERVICE_NAME}/TranscribeAudioIncremental", message):
        time.sleep(0.3)
        started_s = time.monotonic()
        assert_transcribed([house.ask(recordings.control())], recordings.CONTROL_S)  # on the same worker
        assert time.monotonic() - started_s < 10


def test_calls_beyond_all_bounds_are_refused_and_the_server_works_on(
    start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PEER_TIMEOUT_S", 2)
    monkeypatch.setattr(server, "RPC_HEADROOM", 50)
    house = start_server(server_max_workers=1, server_max_waiting=1)
    with HalfCall(house.server.port, CHECK) as halves:
        for number in range(1, 150):
            halves.begin(2 * number + 1)
        # Asked sooner, it would stand in line behind them.
        belongings.assert_settles(
            lambda: house.server._server._state.active_rpc_count, wanted=1 + 1 + server.RPC_HEADROOM
        )
        with pytest.raises(grpc.RpcError) as refusal:
            house.health()
        assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
    belongings.assert_settles(lambda: house.server._server._state.active_rpc_count)
