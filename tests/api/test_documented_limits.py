"""The errors that clients meet at the limits of messages and connections are those of api/grpc/README.md."""

import ast
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from api.grpc import server as grpc_server
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import PROJECT_ROOT
from tests.conftest import Stub
from tests.support.fault_services import NumberingService
from tests.support.running import OWN_CONNECTION, connected, request, running
from tests.support.waiting import HANG_LIMIT_S, wait_until

Code = grpc.StatusCode
DOCUMENTED = (PROJECT_ROOT / "api" / "grpc" / "README.md").read_text(encoding="utf-8")


class Blocked(NumberingService):
    """Answers once `may_answer` is set."""

    def __init__(self) -> None:
        super().__init__(self.wait)
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def wait(self, number: int) -> None:
        self.asked.set()
        assert self.may_answer.wait(HANG_LIMIT_S)


@contextmanager
def stub_of(*options: tuple[str, int], **settings: Any) -> Iterator[Stub]:
    with running(**settings) as server:
        address = f"127.0.0.1:{server.port}"
        with grpc.insecure_channel(address, options=[*OWN_CONNECTION, *options]) as channel:
            yield transcription_pb2_grpc.TranscriptionServiceStub(channel)


@contextmanager
def blocked_call(*options: tuple[str, int], **settings: Any) -> Iterator[tuple[Stub, Any]]:
    """A stub, and its call that the service holds until the block ends."""
    service = Blocked()
    with running(service, **settings) as server:
        address = f"127.0.0.1:{server.port}"
        with grpc.insecure_channel(address, options=[*OWN_CONNECTION, *options]) as channel:
            stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
            call = stub.TranscribeAudio.future(request(), timeout=HANG_LIMIT_S)
            assert service.asked.wait(HANG_LIMIT_S)
            try:
                yield stub, call
            finally:
                service.may_answer.set()


def assert_documented(error: grpc.RpcError, code: grpc.StatusCode) -> None:
    """Check the status, and that its details hold one of the documented texts."""
    texts = re.findall(rf"{code.name} `([^`]+)`", DOCUMENTED)
    assert error.code() is code and any(text.lower() in error.details().lower() for text in texts), error


def error_of(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_message_over_the_limit() -> None:
    large = transcription_pb2.AudioRequest(audio_data=bytes(200_000), filename="a.wav")
    with stub_of(grpc_max_receive_message_length=100_000) as stub:
        assert_documented(error_of(lambda: stub.TranscribeAudio(large)), Code.RESOURCE_EXHAUSTED)


def test_response_over_the_limit_of_the_channel() -> None:
    with stub_of(("grpc.max_receive_message_length", 10)) as stub:
        assert_documented(error_of(lambda: stub.TranscribeAudio(request())), Code.RESOURCE_EXHAUSTED)


def test_metadata_over_16_kib_is_rejected_and_below_8_kib_is_not() -> None:
    with stub_of() as stub:
        assert stub.TranscribeAudio(request(), metadata=[("x-note", "a" * 7_000)]).success
        error = error_of(lambda: stub.TranscribeAudio(request(), metadata=[("x-note", "a" * 17_000)]))
        assert_documented(error, Code.RESOURCE_EXHAUSTED)


def test_call_over_those_that_wait_is_asked_to_retry() -> None:
    with blocked_call(server_max_workers=1, server_max_waiting=1) as (stub, _):
        waiting = stub.TranscribeAudio.future(request(), timeout=HANG_LIMIT_S)
        error = error_of(lambda: stub.TranscribeAudio(request()))
        assert error.code() is Code.UNAVAILABLE and not waiting.done()
        assert "grpc-retry-pushback-ms" in dict(error.trailing_metadata())


def test_call_over_all_that_may_be_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "RPC_HEADROOM", -1)  # 2 in all
    with blocked_call(server_max_workers=1, server_max_waiting=2) as (stub, _):
        waiting = stub.TranscribeAudio.future(request(), timeout=HANG_LIMIT_S)
        assert_documented(error_of(lambda: stub.TranscribeAudio(request())), Code.RESOURCE_EXHAUSTED)
        assert not waiting.done()


def test_call_on_a_new_connection_after_the_old_one_has_aged() -> None:
    with connected(connection_max_age_s=1, connection_grace_s=1) as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        states: list[grpc.ChannelConnectivity] = []
        channel.subscribe(states.append, try_to_connect=True)
        wait_until(lambda: grpc.ChannelConnectivity.READY in states and states[-1] is grpc.ChannelConnectivity.IDLE)
        assert stub.TranscribeAudio(request(), timeout=HANG_LIMIT_S).success


def test_pings_that_come_too_often() -> None:
    often = (("grpc.keepalive_time_ms", 100), ("grpc.http2.max_pings_without_data", 0))
    with blocked_call(*often) as (_, call):
        assert_documented(error_of(call.result), Code.UNAVAILABLE)


def test_documented_keepalive_options_are_those_of_a_channel_that_works() -> None:
    found = re.search(r"options = (\[.*max_pings_without_data.*\])", DOCUMENTED)
    assert found
    options = ast.literal_eval(found[1])
    assert dict(options)["grpc.keepalive_time_ms"] >= 2 * 1000 * grpc_server.MIN_PING_INTERVAL_S
    with stub_of(*options) as stub:
        assert stub.TranscribeAudio(request()).success
