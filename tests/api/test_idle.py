"""Idle timeouts: calls whose client neither sends nor reads are ended, whatever the implementation does."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from api.grpc.idle import IdleWatch
from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2
from tests.conftest import Serve
from tests.support.audio import voice, wav
from tests.support.fault_services import NumberingService
from tests.support.harness import ServerHarness
from tests.support.raw_http2 import NonReadingCall
from tests.support.running import calls_ended
from tests.support.waiting import HANG_LIMIT_S, wait_until

AUDIO = wav(voice(0.3))
ONE_WORKER = {"server_max_workers": 1, "stream_idle_timeout_s": 0.2}
Response = transcription_pb2.TranscriptionResponse


class Overriding(NumberingService):
    """Implements the streamed calls by itself, as an implementation that uses nothing of the base class would."""

    def TranscribeAudioStream(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Response:
        return Response(success=True, transcript=f"{sum(len(chunk.chunk_data) for chunk in request_iterator)}")

    def TranscribeAudioIncremental(self, request_iterator: Iterator[Any], context: grpc.ServicerContext) -> Any:
        for _ in request_iterator:
            for _ in range(3):  # the transport buffers the first without the client's consent
                yield transcription_pb2.TranscriptionUpdate(segment=transcription_pb2.Segment(text="слово"))
        yield transcription_pb2.TranscriptionUpdate(response=Response(success=True))


@pytest.mark.parametrize("service", [NumberingService, Overriding])
@pytest.mark.parametrize("method", ["TranscribeAudioStream", "TranscribeAudioIncremental"])
@pytest.mark.parametrize("messages", [0, 1])
def test_call_whose_client_stops_sending_is_ended_and_frees_its_worker(
    serve: Serve, service: type[NumberingService], method: str, messages: int
) -> None:
    may_end = threading.Event()

    def stalled() -> Iterator[transcription_pb2.AudioChunk]:
        for _ in range(messages):
            yield transcription_pb2.AudioChunk(chunk_data=AUDIO[:1000], filename="a.wav")
        may_end.wait(HANG_LIMIT_S)

    stub = serve(service(), **ONE_WORKER)
    try:
        with pytest.raises(grpc.RpcError) as end:
            answer = getattr(stub, method)(stalled(), timeout=HANG_LIMIT_S)
            list(answer)  # a streamed answer fails only once it is read
        assert end.value.code() is grpc.StatusCode.CANCELLED
        request = transcription_pb2.AudioRequest(audio_data=AUDIO, filename="a.wav")
        assert stub.TranscribeAudio(request, timeout=HANG_LIMIT_S).success
    finally:
        may_end.set()


@pytest.mark.parametrize("service", [NumberingService, Overriding])
def test_call_whose_client_reads_no_answer_is_ended_and_frees_its_worker(service: type[NumberingService]) -> None:
    harness = ServerHarness(service(), AUDIO, **ONE_WORKER)
    harness.start()
    message = transcription_pb2.AudioChunk(chunk_data=AUDIO, filename="a.wav").SerializeToString()
    try:
        with NonReadingCall(harness.port, f"/{SERVICE_NAME}/TranscribeAudioIncremental", message):
            wait_until(lambda: calls_ended(harness.grpc_server, "TranscribeAudioIncremental", "CANCELLED"))
            harness.assert_works()
    finally:
        harness.close()


def test_stream_that_keeps_moving_is_passed_through_however_long_the_server_works_between_messages() -> None:
    ends: list[object] = []
    watch = IdleWatch(timeout_s=0.05)
    try:
        for guard in (watch.guard_reads, watch.guard_writes):
            passed = []
            for message in guard(iter(range(3)), lambda: ends.append("ended")):
                passed.append(message)
                if guard == watch.guard_reads:
                    time.sleep(0.15)  # what the watch must not count
            assert passed == [0, 1, 2]
    finally:
        watch.close()
    assert ends == []


def test_watch_that_was_never_used_has_no_thread() -> None:
    before = threading.active_count()
    watch = IdleWatch(timeout_s=30)
    assert threading.active_count() == before
    watch.close()
