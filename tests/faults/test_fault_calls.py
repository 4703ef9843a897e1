"""Rows 22 to 33, 44 and 45: faulty calls, and calls at a bad moment."""

import gzip
import hashlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from tests.faults.conftest import StartServer
from tests.support import audio as media
from tests.support import process_stats, recordings
from tests.support.fault_services import ChunkHook, NumberingService, SlowToStart
from tests.support.harness import WORKERS, Health, ServerHarness, assert_transcribed
from tests.support.marks import row
from tests.support.messages import stream_messages
from tests.support.raw_http2 import HalfCall
from tests.support.waiting import HANG_LIMIT_S, wait_until

UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
Code = grpc.StatusCode


def error_of(work: Any) -> Any:
    """The error in which `work` ends."""
    with pytest.raises(grpc.RpcError) as failure:
        work()
    return failure.value


def assert_asks_to_retry(error: Any) -> None:
    assert error.code() is Code.UNAVAILABLE
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


def long_recording() -> bytes:
    """A recording whose decoder cannot end before its first chunk is taken: more than a pipe holds."""
    return media.voice_wav(100, sample_rate=8000)


def paused_upload(count: int, may_end: threading.Event, audio_bytes: bytes) -> Iterator[transcription_pb2.AudioChunk]:
    """Yield the first `count` messages of a recording, and end once `may_end` is set."""
    yield from itertools.islice(stream_messages(audio_bytes, filename="a.wav"), count)
    may_end.wait(HANG_LIMIT_S)


def error_during_upload(server: ServerHarness, messages: list[transcription_pb2.AudioChunk]) -> Any:
    """The error of a stream that sends `messages` and never ends by itself."""
    ended = threading.Event()

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        yield from messages
        ended.wait(HANG_LIMIT_S)

    call = server.begin_stream(upload())
    call.add_done_callback(lambda _: ended.set())
    return error_of(call.result)


@row(22)
def test_a_message_over_the_limit_is_rejected(start_server: StartServer) -> None:
    server = start_server(grpc_max_receive_message_length=100_000)
    assert error_of(lambda: server.transcribe(bytes(200_000))).code() is Code.RESOURCE_EXHAUSTED
    messages = [transcription_pb2.AudioChunk(chunk_data=bytes(200_000), filename="a.wav")]
    assert error_of(lambda: server.transcribe_stream(messages)).code() is Code.RESOURCE_EXHAUSTED


@row(23)
def test_a_stream_over_the_limit_is_rejected_before_the_rest_is_sent(start_server: StartServer) -> None:
    server = start_server(stream_max_bytes=300_000)
    messages = [transcription_pb2.AudioChunk(chunk_data=bytes(64 * 1024), filename="a.wav")] * 6
    error = error_during_upload(server, messages)
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "STREAM_MAX_BYTES" in error.details()


@row(24)
def test_a_bomb_as_message_compression_is_rejected(start_server: StartServer) -> None:
    server = start_server(grpc_max_receive_message_length=100_000)
    bomb = bytes(8 * 1024**2)
    assert len(gzip.compress(bomb)) < 100_000
    call = server.channel.unary_unary(UNARY)
    error = error_of(lambda: call(bomb, compression=grpc.Compression.Gzip, timeout=HANG_LIMIT_S))
    assert error.code() is Code.RESOURCE_EXHAUSTED


@row(25)
def test_an_invalid_protobuf_is_an_internal_error(start_server: StartServer) -> None:
    server = start_server()
    streamed = server.channel.stream_unary(UNARY + "Stream")
    described = transcription_pb2.AudioChunk(chunk_data=b"RIFF", filename="a.wav").SerializeToString()
    calls = (
        lambda: server.channel.unary_unary(UNARY)(b"\xff" * 100, timeout=HANG_LIMIT_S),
        lambda: streamed(iter([b"\xff" * 100]), timeout=HANG_LIMIT_S),
        lambda: streamed(iter([described, b"\xff" * 100]), timeout=HANG_LIMIT_S),
    )
    for call in calls:
        error = error_of(call)
        assert error.code() is Code.INTERNAL
        assert "Traceback" not in error.details()


@row(26)
@pytest.mark.parametrize("method", [f"/{SERVICE_NAME}/Nothing", "/transcription.v2.TranscriptionService/Transcribe"])
def test_an_unknown_method_is_unimplemented(start_server: StartServer, method: str) -> None:
    server = start_server()
    error = error_of(lambda: server.channel.unary_unary(method)(b"", timeout=HANG_LIMIT_S))
    assert error.code() is Code.UNIMPLEMENTED


@row(27)
@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # the beginning of TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000,
        b"",
    ],
)
def test_junk_on_the_port_disturbs_no_call(start_server: StartServer, junk: bytes) -> None:
    server = start_server()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_LIMIT_S) as connection:
            connection.sendall(junk)
            server.health()


@row(28)
def test_half_sent_messages_are_ended_by_the_age_of_their_connection(start_server: StartServer) -> None:
    server = start_server(connection_max_age_s=1, connection_grace_s=1)
    with ExitStack() as stack, ThreadPoolExecutor(WORKERS) as readers:
        halves = [stack.enter_context(HalfCall(server.port, UNARY)) for _ in range(WORKERS)]
        ends = [readers.submit(half.wait_until_ended) for half in halves]

        def all_ended() -> bool:
            assert server.health() == Health.SERVING
            return all(end.done() for end in ends)

        wait_until(all_ended)
        server.assert_works()  # the workers are free


@row(28)
def test_a_call_that_is_being_uploaded_outlives_the_age_of_its_connection(start_server: StartServer) -> None:
    server = start_server(connection_max_age_s=1)
    states: list[grpc.ChannelConnectivity] = []
    server.channel.subscribe(states.append)
    may_end = threading.Event()
    recording = recordings.control()
    call = server.begin_stream(paused_upload(len(recording), may_end, recording))
    wait_until(lambda: grpc.ChannelConnectivity.READY in states and states[-1] is grpc.ChannelConnectivity.IDLE)
    server.channel.unsubscribe(states.append)
    assert not call.done()
    may_end.set()
    assert call.result(timeout=HANG_LIMIT_S).success
    server.assert_works()  # over a new connection


@row(28)
def test_half_sent_messages_hold_the_workers_meanwhile(start_server: StartServer) -> None:
    server = start_server()
    with ExitStack() as halves:
        for _ in range(WORKERS):
            halves.enter_context(HalfCall(server.port, UNARY)).wait_until_received()
        late = server.begin(recordings.control())
        server.wait_until_received()
        assert server.health() == Health.SERVING
        assert not late.done()
    assert late.result(timeout=HANG_LIMIT_S).success


@row(29)
@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_stream_that_stops_sending_is_ended_and_frees_its_worker(start_server: StartServer, count: int) -> None:
    server = start_server(stream_idle_timeout_s=0.5, server_max_workers=1)
    may_end = threading.Event()
    call = server.begin_stream(paused_upload(count, may_end, recordings.recording("wav")))
    assert_transcribed([server.transcribe(recordings.control())], recordings.CONTROL_S)  # on the same worker
    assert call.code() in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED)
    may_end.set()


@row(30)
@pytest.mark.real_model
def test_a_call_cancelled_while_it_waits_for_a_worker_is_never_begun(start_server: StartServer) -> None:
    at_work, may_go_on = threading.Event(), threading.Event()
    server = start_server(server_max_workers=1)
    service = server.service
    assert isinstance(service, ChunkHook)

    def hold(number: int) -> None:
        at_work.set()
        assert may_go_on.wait(HANG_LIMIT_S)

    service.at_chunk, before = hold, service.recognised
    first = server.begin(recordings.control())
    assert at_work.wait(HANG_LIMIT_S)
    second = server.begin(recordings.control())
    server.wait_until_received()
    second.cancel()
    server.wait_until_received()
    may_go_on.set()
    assert first.result(timeout=HANG_LIMIT_S).success
    server.assert_works()
    assert service.recognised == before + 2  # the first and the control


@row(30)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_cancelled_while_it_is_decoded_ends_its_decoder(start_server: StartServer, streamed: bool) -> None:
    begun, may_end = threading.Event(), threading.Event()
    service = NumberingService()
    server = start_server(service)
    service.at_chunk = lambda number: begun.set() or may_end.wait(HANG_LIMIT_S)
    audio_bytes = long_recording()
    messages = stream_messages(audio_bytes, filename="a.wav")
    call = server.begin_stream(messages) if streamed else server.begin(audio_bytes)
    assert begun.wait(HANG_LIMIT_S)
    assert len(server.decoders()) == 1
    call.cancel()
    try:
        process_stats.wait_until_released(server.decoders)  # though the recogniser is still busy
    finally:
        may_end.set()
    service.at_chunk = lambda number: None


@row(32)
def test_a_full_queue_asks_to_retry_and_health_answers(start_server: StartServer) -> None:
    service = NumberingService()
    server = start_server(service, server_max_workers=1, server_max_waiting=2)
    at_work, may_go_on = threading.Event(), threading.Event()
    service.at_chunk = lambda number: at_work.set() or may_go_on.wait(HANG_LIMIT_S)
    accepted = [server.begin(recordings.control())]
    assert at_work.wait(HANG_LIMIT_S)
    accepted += [server.begin(recordings.control()) for _ in range(2)]
    server.wait_until_received()
    messages = list(stream_messages(recordings.control()))
    for call in (lambda: server.transcribe(recordings.control()), lambda: server.transcribe_stream(messages)):
        assert_asks_to_retry(error_of(call))
        assert server.health() == Health.SERVING
    may_go_on.set()
    assert all(call.result(timeout=HANG_LIMIT_S).success for call in accepted)


@row(32)
def test_too_much_audio_in_the_queue_asks_to_retry(start_server: StartServer) -> None:
    class Behind(NumberingService):
        seconds = 0.0

        def queued_audio_s(self) -> float:
            return self.seconds

    service = Behind()
    server = start_server(service, admission_max_queued_audio_s=60)
    service.seconds = 61.0
    error = error_of(lambda: server.transcribe(recordings.control()))
    assert_asks_to_retry(error)
    assert dict(error.trailing_metadata())["x-error-code"] == "OVERLOADED"
    assert server.health() == Health.SERVING
    service.seconds = 59.0


@row(32)
def test_too_many_bytes_in_flight_ask_to_retry(start_server: StartServer) -> None:
    service = NumberingService()
    server = start_server(service, admission_max_bytes=200_000, model_chunk_duration=1)
    may_end, arrived, large = threading.Event(), threading.Event(), recordings.recording("wav", 5)  # 160 KB
    service.at_chunk = lambda number: arrived.set() if number == 2 else None
    call = server.begin_stream(paused_upload(30, may_end, recordings.recording("wav")))
    assert arrived.wait(HANG_LIMIT_S)
    assert_asks_to_retry(error_of(lambda: server.transcribe(large)))
    assert server.health() == Health.SERVING
    may_end.set()
    assert call.result(timeout=HANG_LIMIT_S).success
    assert_transcribed([server.transcribe(large)], 5)  # the bytes of an ended call count no more


@row(33)
def test_a_call_while_the_model_loads_is_asked_to_retry(start_server: StartServer) -> None:
    service = SlowToStart()
    server = start_server(service, start=False)
    loading = threading.Thread(target=server.start)
    loading.start()
    grpc.channel_ready_future(server.channel).result(timeout=HANG_LIMIT_S)
    assert server.health() == Health.NOT_SERVING
    messages = list(stream_messages(recordings.control()))
    for call in (lambda: server.transcribe(recordings.control()), lambda: server.transcribe_stream(messages)):
        assert_asks_to_retry(error_of(call))
    assert server.health() == Health.NOT_SERVING
    service.may_start.set()
    loading.join()


TOKEN = "a token of the tests"
TOKEN_HASHES = (hashlib.sha256(TOKEN.encode()).hexdigest(),)


@row(44)
@pytest.mark.parametrize("given", [None, "", TOKEN + "!", TOKEN[:-1], "Ы"])
def test_a_call_without_the_right_token_is_rejected_before_anything_is_decoded(
    start_server: StartServer, given: str | None
) -> None:
    service = NumberingService()
    server = start_server(service, auth_token_hashes=TOKEN_HASHES, token=TOKEN, server_max_workers=1)
    before = service.recognised
    value = f"Bearer {given}" if given is None or given.isascii() else f"Bearer {given}".encode()
    key = "authorization" if isinstance(value, str) else "authorization-bin"
    metadata = () if given is None else ((key, value),)
    request = transcription_pb2.AudioRequest(audio_data=recordings.control(), filename="a.wav")
    messages = list(stream_messages(recordings.control(), filename="a.wav"))
    sent = {"metadata": metadata, "timeout": HANG_LIMIT_S}
    calls = (
        lambda: server.stub.TranscribeAudio(request, **sent),
        lambda: server.stub.TranscribeAudioStream(iter(messages), **sent),
        lambda: list(server.stub.TranscribeAudioIncremental(iter(messages), **sent)),
    )
    for call in calls:
        assert error_of(call).code() is Code.UNAUTHENTICATED
    assert service.recognised == before
    assert server.decoders() == []


@row(44)
def test_a_rejection_without_a_token_does_not_wait_for_the_upload(start_server: StartServer) -> None:
    server = start_server(auth_token_hashes=TOKEN_HASHES, token=TOKEN)
    server.token = None
    error = error_during_upload(server, [transcription_pb2.AudioChunk(chunk_data=bytes(64 * 1024))])
    assert error.code() is Code.UNAUTHENTICATED
    server.token = TOKEN


@row(45)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_exception_in_a_handler_gives_its_request_id_and_nothing_else(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    service = NumberingService()
    server = start_server(service)

    def fail(number: int) -> None:
        raise KeyError("a secret of the server")

    service.at_chunk = fail
    audio_bytes = recordings.control()
    messages = stream_messages(audio_bytes, filename="a.wav")
    error = error_of(lambda: server.transcribe_stream(messages) if streamed else server.transcribe(audio_bytes))
    assert error.code() is Code.INTERNAL
    assert "secret" not in error.details() and "Traceback" not in error.details()
    request_id = error.details().split()[-1]
    assert request_id in caplog.text and "a secret of the server" in caplog.text and "Traceback" in caplog.text
    service.at_chunk = lambda number: None


def test_the_harness_notices_what_is_left_behind(start_server: StartServer) -> None:
    server = start_server()
    left, stop = os.dup(0), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    held = server.newly_held()
    assert sum(held.values()) >= 2 and "left-behind" in held
    stop.set()
    thread.join()
    os.close(left)


def test_each_connection_of_the_harness_reaches_its_server(start_server: StartServer) -> None:
    server = start_server()
    with server.connect() as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        request = transcription_pb2.AudioRequest(audio_data=recordings.control(), filename="a.wav")
        assert stub.TranscribeAudio(request, timeout=HANG_LIMIT_S).success
