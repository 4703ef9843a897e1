"""Health and calls while the implementation is being prepared, and after the server stops."""

import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.server import SERVICE_NAME, GrpcServer, PortTakenError
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from tests.conftest import settings_for_tests
from tests.support.fault_services import NumberingService, SlowToStart
from tests.support.running import channel_to, running, status_of
from tests.support.waiting import HANG_LIMIT_S

Health = health_pb2.HealthCheckResponse
Code = grpc.StatusCode


@pytest.fixture
def starting() -> Iterator[tuple[SlowToStart, grpc.Channel, threading.Thread]]:
    """A server that listens while its implementation is still starting."""
    service = SlowToStart()
    server = GrpcServer(service, settings_for_tests())
    thread = threading.Thread(target=server.start)
    thread.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        grpc.channel_ready_future(channel).result(timeout=HANG_LIMIT_S)
        yield service, channel, thread
    service.may_start.set()
    thread.join()
    server.stop()


def check(channel: grpc.Channel, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name)
    status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=HANG_LIMIT_S).status
    return status


@pytest.mark.parametrize("name", ["", SERVICE_NAME])
def test_health_is_not_serving_until_the_model_is_ready(
    starting: tuple[SlowToStart, grpc.Channel, threading.Thread], name: str
) -> None:
    service, channel, thread = starting
    assert check(channel, name) == Health.NOT_SERVING
    service.may_start.set()
    thread.join()
    assert check(channel, name) == Health.SERVING


def test_call_before_the_model_is_ready_is_asked_to_retry(
    starting: tuple[SlowToStart, grpc.Channel, threading.Thread],
) -> None:
    _, channel, _ = starting
    stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as refusal:
        stub.TranscribeAudio(transcription_pb2.AudioRequest(), timeout=HANG_LIMIT_S)
    assert refusal.value.code() is Code.UNAVAILABLE
    assert int(dict(refusal.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


def test_second_server_on_the_same_port_is_an_error() -> None:
    first = GrpcServer(NumberingService(), settings_for_tests())
    try:
        with pytest.raises(PortTakenError, match=str(first.port)):
            GrpcServer(NumberingService(), settings_for_tests(server_port=first.port))
    finally:
        first.stop()


class SometimesReady(NumberingService):
    """Is ready or not, as a test sets it."""

    ready = True

    def is_ready(self) -> bool:
        return self.ready


def test_calls_are_rejected_exactly_while_the_implementation_is_not_ready() -> None:
    service = SometimesReady()
    with running(service) as server, channel_to(server.port) as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        for service.ready in (False, True, False):
            server.sync_readiness()  # as the program does twice a second
            assert check(channel, "") == (Health.SERVING if service.ready else Health.NOT_SERVING)
            assert status_of(stub.TranscribeAudio) is (Code.OK if service.ready else Code.UNAVAILABLE)
