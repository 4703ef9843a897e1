"""grpc.reflection and grpc.channelz: off unless asked for, and never blocked by clients that send half a request."""

from contextlib import ExitStack

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from api.grpc import server as grpc_server
from api.grpc.reflection import REFLECTION_WORKERS
from api.grpc.server import SERVICE_NAME
from tests.support.raw_http2 import HalfCall
from tests.support.running import channel_to, connected, running
from tests.support.waiting import HANG_LIMIT_S

REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
CHANNELZ = "/grpc.channelz.v1.Channelz/GetServers"


def listed_services(channel: grpc.Channel) -> list[str]:
    """The services that reflection names."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([question]), timeout=HANG_LIMIT_S)
    return [service.name for service in answer.list_services_response.service]


def count_calls(channel: grpc.Channel) -> int:
    """The calls that the servers of this process have begun to answer, by channelz."""
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    servers = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=HANG_LIMIT_S).server
    return sum(server.data.calls_started for server in servers)


def test_reflection_answers_only_when_asked_for() -> None:
    with connected(server_channelz=True) as channel, pytest.raises(grpc.RpcError) as refusal:
        listed_services(channel)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with connected(server_reflection=True) as channel:
        assert SERVICE_NAME in listed_services(channel)


def test_channelz_answers_only_when_asked_for() -> None:
    with connected(server_reflection=True) as channel, pytest.raises(grpc.RpcError) as refusal:
        count_calls(channel)
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    with connected(server_channelz=True) as channel:
        assert count_calls(channel) >= 1


def test_channelz_answers_every_method_with_its_own_message() -> None:
    with connected(server_channelz=True) as channel:
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        (server,) = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=HANG_LIMIT_S).server
        request = channelz_pb2.GetServerRequest(server_id=server.ref.server_id)
        assert stub.GetServer(request, timeout=HANG_LIMIT_S).server.ref == server.ref
        with pytest.raises(grpc.RpcError) as refusal:
            stub.GetServer(channelz_pb2.GetServerRequest(server_id=10**9), timeout=HANG_LIMIT_S)
        assert refusal.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("method", [REFLECTION, CHANNELZ])
def test_half_sent_requests_are_ended_so_that_both_services_answer(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(grpc_server, "PEER_TIMEOUT_S", 0.2)
    with running(server_reflection=True, server_channelz=True) as server, ExitStack() as connections:
        for _ in range(2 * REFLECTION_WORKERS):
            connections.enter_context(HalfCall(server.port, method))
        with channel_to(server.port) as channel:
            assert SERVICE_NAME in listed_services(channel)
            assert count_calls(channel) >= 1
