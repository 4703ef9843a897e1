"""A server in this process that is ready, and connections to it that no other test shares."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2
from services.transcription.interface import ITranscriptionService
from tests.conftest import settings_for_tests
from tests.support.audio import voice_wav
from tests.support.fault_services import NumberingService
from tests.support.waiting import HANG_LIMIT_S

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]  # as a channel's options


@contextmanager
def running(service: ITranscriptionService | None = None, **settings: Any) -> Iterator[GrpcServer]:
    """A started server around `service`, by default a NumberingService."""
    server = GrpcServer(service or NumberingService(), settings_for_tests(**settings))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def connected(service: ITranscriptionService | None = None, **settings: Any) -> Iterator[grpc.Channel]:
    """A channel to a server as `running` makes it."""
    with running(service, **settings) as server, channel_to(server.port) as channel:
        yield channel


def calls_ended(server: GrpcServer, method: str, outcome: str) -> float:
    """How many calls of `method` ended as `outcome`, by the metrics of the server; rejected ones count too."""
    labels = {"method": method, "outcome": outcome}
    return server.metrics.registry.get_sample_value("transcription_requests_total", labels) or 0.0


def request() -> transcription_pb2.AudioRequest:
    """A short recording."""
    return transcription_pb2.AudioRequest(audio_data=voice_wav(0.3), filename="a.wav")


def status_of(call: grpc.UnaryUnaryMultiCallable, metadata: Sequence[tuple[str, str]] = ()) -> grpc.StatusCode:
    """How `call` ends for a short recording."""
    try:
        assert call(request(), metadata=metadata, timeout=HANG_LIMIT_S).success
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def channel_to(port: int) -> grpc.Channel:
    """A connection of its own to a server on this machine; close it."""
    return grpc.insecure_channel(f"127.0.0.1:{port}", options=OWN_CONNECTION)
