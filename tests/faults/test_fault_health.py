"""Row 28 and related faults: health answers during abuse of health checks, watches and reflection."""

from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.grpc import health
from api.grpc import server as grpc_server
from api.grpc.reflection import REFLECTION_WORKERS
from generated.v1 import transcription_pb2
from tests.faults.conftest import StartServer
from tests.support import recordings
from tests.support.fault_services import NumberingService
from tests.support.harness import SERVICE_NAME, Health, ServerHarness, assert_transcribed
from tests.support.marks import row
from tests.support.raw_http2 import HalfCall, NonReadingCall
from tests.support.waiting import HANG_LIMIT_S, wait_until

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
Code = grpc.StatusCode


class SometimesReady(NumberingService):
    """Takes calls while `ready`."""

    ready = True

    def is_ready(self) -> bool:
        return self.ready


def watch(server: ServerHarness, service: str = SERVICE_NAME) -> Any:
    request = health_pb2.HealthCheckRequest(service=service)
    return health_pb2_grpc.HealthStub(server.channel).Watch(request, timeout=HANG_LIMIT_S)


def check_status(server: ServerHarness) -> Code:
    """How a health check ends."""
    try:
        server.health()
    except grpc.RpcError as error:
        return error.code()
    return Code.OK


@row(28)
@pytest.mark.parametrize("method", [CHECK, WATCH])
def test_half_sent_health_checks_do_not_keep_health_from_answering(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(grpc_server, "PEER_TIMEOUT_S", 0.5)
    server = start_server()
    with ExitStack() as halves:
        for _ in range(2 * health.HEALTH_WORKERS):
            halves.enter_context(HalfCall(server.port, method)).wait_until_received()
        assert server.health() == Health.SERVING


def test_watchers_that_read_nothing_do_not_keep_health_from_answering_and_changing(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "PEER_TIMEOUT_S", 0.5)
    service = SometimesReady()
    server = start_server(service)
    message = health_pb2.HealthCheckRequest(service=SERVICE_NAME).SerializeToString()
    with ExitStack() as calls:
        for _ in range(2 * health.HEALTH_WORKERS):
            calls.enter_context(NonReadingCall(server.port, WATCH, message)).wait_until_received()
        updates = watch(server)
        assert server.health() == next(updates).status == Health.SERVING
        for service.ready, status in ((False, Health.NOT_SERVING), (True, Health.SERVING)):
            server.grpc_server.sync_readiness()
            assert next(updates).status == status
        updates.cancel()


@pytest.mark.parametrize("service", [SERVICE_NAME, "unknown"])
def test_watchers_are_limited_and_a_cancelled_one_makes_room(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setattr(health, "MAX_WATCHERS", 2)
    server = start_server()

    def is_accepted() -> bool:
        updates = watch(server, service)
        try:
            next(updates)
        except grpc.RpcError as error:
            assert error.code() is Code.RESOURCE_EXHAUSTED
            return False
        watching.append(updates)
        return True

    watching: list[Any] = []
    assert is_accepted() and is_accepted()
    for _ in range(10):
        assert not is_accepted()
        assert server.health() == Health.SERVING
        watching.pop(0).cancel()
        wait_until(is_accepted)
    for updates in watching:
        updates.cancel()


def test_check_of_an_unknown_service_is_not_found(start_server: StartServer) -> None:
    server = start_server()
    stub = health_pb2_grpc.HealthStub(server.channel)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Check(health_pb2.HealthCheckRequest(service="other"), timeout=HANG_LIMIT_S)
    assert failure.value.code() is Code.NOT_FOUND


def test_open_reflection_streams_hold_no_worker_and_are_ended(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "PEER_TIMEOUT_S", 0.5)
    server = start_server(server_reflection=True, server_max_workers=1)
    with ExitStack() as halves:
        for _ in range(2 * REFLECTION_WORKERS):
            halves.enter_context(HalfCall(server.port, REFLECTION)).wait_until_received()
        assert_transcribed([server.transcribe(recordings.control())], recordings.CONTROL_S)
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=HANG_LIMIT_S)
        assert SERVICE_NAME in [service.name for service in answer.list_services_response.service]


def test_client_that_reads_nothing_of_the_answer_frees_its_worker(start_server: StartServer) -> None:
    server = start_server(stream_idle_timeout_s=0.5, server_max_workers=1)
    message = transcription_pb2.AudioChunk(chunk_data=recordings.control(), filename="a.wav").SerializeToString()
    with NonReadingCall(server.port, f"/{SERVICE_NAME}/TranscribeAudioIncremental", message) as call:
        call.wait_until_received()
        assert_transcribed([server.transcribe(recordings.control())], recordings.CONTROL_S)  # on the same worker


def test_calls_beyond_the_limit_are_rejected_and_the_server_works_on(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "PEER_TIMEOUT_S", HANG_LIMIT_S)
    monkeypatch.setattr(grpc_server, "RPC_HEADROOM", 50)
    server = start_server(server_max_workers=1, server_max_waiting=1)
    with HalfCall(server.port, CHECK) as halves:
        for number in range(1, 150):
            halves.begin(2 * number + 1)
        halves.wait_until_a_call_ended()  # rejected: the others are as many as the limit
        assert check_status(server) is Code.RESOURCE_EXHAUSTED
    wait_until(lambda: check_status(server) is Code.OK)
