"""Rows 22 to 33, 44 and 45: what is wrong with a call, or comes at the wrong moment."""

import gzip
import hashlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2, transcription_pb2_grpc
from resources.config import Settings
from tests.faults.conftest import OpenHouse
from tests.support import audio as media
from tests.support import process_stats as belongings
from tests.support import recordings
from tests.support.fault_services import NumberingService
from tests.support.harness import PATIENCE_S, WORKERS, Health, ServerHarness, assert_transcribed, pieces
from tests.support.marks import row
from tests.support.raw_http2 import HalfCall

UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
Code = grpc.StatusCode


def status_of(work: Any) -> grpc.RpcError:
    """The error in which `work` ends."""
    with pytest.raises(grpc.RpcError) as failure:
        work()
    return failure.value


def assert_asks_to_come_back(error: Any) -> None:
    assert error.code() is Code.UNAVAILABLE
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


@row(22)
def test_a_message_over_the_limit_is_refused(start_server: OpenHouse) -> None:
    house = start_server(grpc_max_receive_message_length=100_000)
    assert status_of(lambda: house.ask(bytes(200_000))).code() is Code.RESOURCE_EXHAUSTED
    messages = [transcription_pb2.AudioChunk(chunk_data=bytes(200_000), filename="a.wav")]
    assert status_of(lambda: house.stream(messages)).code() is Code.RESOURCE_EXHAUSTED


@row(23)
def test_a_stream_over_the_limit_is_refused_before_the_rest_is_read(start_server: OpenHouse) -> None:
    house = start_server(stream_max_bytes=300_000)
    sent = itertools.count()
    endless = (
        transcription_pb2.AudioChunk(chunk_data=bytes(64 * 1024), filename="a.wav")
        for number in sent
        if number < 16_000  # 1 GB
    )
    error: Any = status_of(lambda: house.stream(endless))
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert "STREAM_MAX_BYTES" in error.details()
    assert next(sent) < 1000


@row(24)
def test_a_bomb_as_message_compression_is_refused(start_server: OpenHouse) -> None:
    house = start_server(grpc_max_receive_message_length=100_000)
    bomb = bytes(8 * 1024**2)
    assert len(gzip.compress(bomb)) < 100_000
    call = house.channel.unary_unary(UNARY)
    error = status_of(lambda: call(bomb, compression=grpc.Compression.Gzip, timeout=PATIENCE_S))
    assert error.code() is Code.RESOURCE_EXHAUSTED


@row(25)
def test_an_invalid_protobuf_is_an_internal_error(start_server: OpenHouse) -> None:
    house = start_server()
    streamed = house.channel.stream_unary(UNARY + "Stream")
    described = transcription_pb2.AudioChunk(chunk_data=b"RIFF", filename="a.wav").SerializeToString()
    calls = (
        lambda: house.channel.unary_unary(UNARY)(b"\xff" * 100, timeout=PATIENCE_S),
        lambda: streamed(iter([b"\xff" * 100]), timeout=PATIENCE_S),
        lambda: streamed(iter([described, b"\xff" * 100]), timeout=PATIENCE_S),
    )
    for call in calls:
        error: Any = status_of(call)
        assert error.code() is Code.INTERNAL
        assert "Traceback" not in error.details()


@row(26)
@pytest.mark.parametrize("method", [f"/{SERVICE_NAME}/Nothing", "/transcription.v2.TranscriptionService/Transcribe"])
def test_an_unknown_method_is_unimplemented(start_server: OpenHouse, method: str) -> None:
    house = start_server()
    error = status_of(lambda: house.channel.unary_unary(method)(b"", timeout=PATIENCE_S))
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
def test_junk_on_the_port_disturbs_nobody(start_server: OpenHouse, junk: bytes) -> None:
    house = start_server()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", house.server.port), timeout=5) as connection:
            connection.sendall(junk)
            house.health()


@row(28)
def test_half_sent_messages_are_ended_by_the_age_of_their_connection(start_server: OpenHouse) -> None:
    house = start_server(connection_max_age_s=1, connection_grace_s=1)
    started_s = time.monotonic()
    with ExitStack() as stack, ThreadPoolExecutor(WORKERS) as readers, house.connect() as younger:
        halves = [stack.enter_context(HalfCall(house.server.port, UNARY)) for _ in range(WORKERS)]
        ends = [readers.submit(half.wait_until_ended) for half in halves]
        time.sleep(0.8)  # or the next one's connection would be as old
        request = transcription_pb2.AudioRequest(audio_data=recordings.control(), filename="a.wav")
        late = transcription_pb2_grpc.TranscriptionServiceStub(younger).TranscribeAudio.future(request, timeout=15)
        while not all(end.done() for end in ends):
            assert house.health() == Health.SERVING
            assert time.monotonic() - started_s < 15
            time.sleep(0.05)
        assert late.result(timeout=PATIENCE_S).success  # it had waited for a worker
    assert time.monotonic() - started_s > 1  # nothing else had ended them


@row(28)
def test_half_sent_messages_hold_the_workers_meanwhile(start_server: OpenHouse) -> None:
    house = start_server()
    with ExitStack() as halves:
        for _ in range(WORKERS):
            halves.enter_context(HalfCall(house.server.port, UNARY))
        deadline_s = time.monotonic() + PATIENCE_S
        while house.begin(recordings.control(), timeout_s=0.7).exception(timeout=PATIENCE_S) is None:
            assert time.monotonic() < deadline_s  # they take a moment to arrive
        late = house.begin(recordings.control())
        assert house.health() == Health.SERVING
        assert not late.done()
    assert late.result(timeout=PATIENCE_S).success


def stalling(before: int, may_end: threading.Event) -> Iterator[transcription_pb2.AudioChunk]:
    """Some messages of a recording, and then none until told."""
    yield from itertools.islice(pieces(recordings.recording("wav"), filename="a.wav"), before)
    may_end.wait(PATIENCE_S)


@row(29)
@pytest.mark.parametrize("before", [0, 1, 20])
def test_a_stream_that_stops_sending_is_ended_and_frees_its_worker(start_server: OpenHouse, before: int) -> None:
    house = start_server(stream_idle_timeout_s=0.5, server_max_workers=1)
    may_end = threading.Event()
    call = house.stub.TranscribeAudioStream.future(stalling(before, may_end), timeout=PATIENCE_S)
    started_s = time.monotonic()
    assert_transcribed([house.ask(recordings.control())], recordings.CONTROL_S)  # on the same worker
    assert time.monotonic() - started_s < 10
    assert call.code() in (Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.ABORTED)
    may_end.set()


@row(30)
def test_a_call_cancelled_while_it_waits_for_a_worker_is_never_begun(start_server: OpenHouse) -> None:
    at_work, may_go_on = threading.Event(), threading.Event()
    service = NumberingService()
    house = start_server(service, server_max_workers=1)

    def hold(number: int) -> None:
        at_work.set()
        assert may_go_on.wait(PATIENCE_S)

    service.at_chunk, before = hold, service.recognised
    first = house.begin(recordings.control())
    assert at_work.wait(PATIENCE_S)
    second = house.begin(recordings.control())
    time.sleep(0.1)
    second.cancel()
    time.sleep(0.1)
    may_go_on.set()
    assert first.result(timeout=PATIENCE_S).success
    house.assert_works()
    assert service.recognised == before + 2  # the first and the control


@row(30)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_call_cancelled_while_it_is_decoded_takes_its_decoder_along(start_server: OpenHouse, streamed: bool) -> None:
    begun, may_end = threading.Event(), threading.Event()
    service = NumberingService()
    house = start_server(service)
    service.at_chunk = lambda number: begun.set() or may_end.wait(PATIENCE_S)
    audio_bytes = media.wav(media.voice(100, sample_rate=8000), 8000)
    if streamed:
        call = house.stub.TranscribeAudioStream.future(pieces(audio_bytes, filename="a.wav"), timeout=PATIENCE_S)
    else:
        call = house.begin(audio_bytes)
    assert begun.wait(PATIENCE_S)
    assert len(house.decoders()) == 1
    call.cancel()
    try:
        belongings.assert_settles(house.decoders)  # though the recogniser is still busy
    finally:
        may_end.set()
    service.at_chunk = lambda number: None


@row(32)
def test_a_full_queue_asks_to_come_back_and_health_answers(start_server: OpenHouse) -> None:
    service = NumberingService()
    house = start_server(service, server_max_workers=1, server_max_waiting=2)
    at_work, may_go_on = threading.Event(), threading.Event()
    service.at_chunk = lambda number: at_work.set() or may_go_on.wait(PATIENCE_S)
    taken = [house.begin(recordings.control())]
    assert at_work.wait(PATIENCE_S)
    taken += [house.begin(recordings.control()) for _ in range(2)]
    time.sleep(0.2)
    for call in (lambda: house.ask(recordings.control()), lambda: house.stream(pieces(recordings.control()))):
        assert_asks_to_come_back(status_of(call))
        assert house.health() == Health.SERVING
    may_go_on.set()
    assert all(call.result(timeout=PATIENCE_S).success for call in taken)


@row(32)
def test_too_much_audio_in_the_queue_asks_to_come_back(start_server: OpenHouse) -> None:
    class Behind(NumberingService):
        seconds = 0.0

        def queued_audio_s(self) -> float:
            return self.seconds

    service = Behind()
    house = start_server(service, admission_max_queued_audio_s=60)
    service.seconds = 61.0
    error: Any = status_of(lambda: house.ask(recordings.control()))
    assert_asks_to_come_back(error)
    assert dict(error.trailing_metadata())["x-error-code"] == "OVERLOADED"
    assert house.health() == Health.SERVING
    service.seconds = 59.0


@row(32)
def test_too_many_bytes_under_way_ask_to_come_back(start_server: OpenHouse) -> None:
    service = NumberingService()
    house = start_server(service, admission_max_bytes=200_000, model_chunk_duration=1)
    may_end, arrived, large = threading.Event(), threading.Event(), recordings.recording("wav", 5)  # 160 KB
    service.at_chunk = lambda number: arrived.set() if number == 2 else None
    call = house.stub.TranscribeAudioStream.future(stalling(30, may_end), timeout=PATIENCE_S)
    assert arrived.wait(PATIENCE_S)
    assert_asks_to_come_back(status_of(lambda: house.ask(large)))
    assert house.health() == Health.SERVING
    may_end.set()
    assert call.result(timeout=PATIENCE_S).success
    assert_transcribed([house.ask(large)], 5)  # what is over counts no more


class SlowToStart(NumberingService):
    """Loads for as long as the test wants."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()

    def start(self, settings: Settings) -> None:
        super().start(settings)
        assert self.may_start.wait(PATIENCE_S)


@row(33)
def test_a_call_while_the_model_loads_is_asked_to_come_back(start_server: OpenHouse) -> None:
    service = SlowToStart()
    house = start_server(service, start=False)
    loading = threading.Thread(target=house.start)
    loading.start()
    grpc.channel_ready_future(house.channel).result(timeout=PATIENCE_S)
    assert house.health() == Health.NOT_SERVING
    for call in (lambda: house.ask(recordings.control()), lambda: house.stream(pieces(recordings.control()))):
        assert_asks_to_come_back(status_of(call))
    assert house.health() == Health.NOT_SERVING
    service.may_start.set()
    loading.join()


TOKEN = "a token of the tests"


@row(44)
@pytest.mark.parametrize("given", [None, "", TOKEN + "!", TOKEN[:-1], "Ы"])
def test_a_call_without_the_right_token_is_refused_before_anything_is_decoded(
    start_server: OpenHouse, given: str | None
) -> None:
    service = NumberingService()
    house = start_server(
        service, auth_token_hashes=(hashlib.sha256(TOKEN.encode()).hexdigest(),), token=TOKEN, server_max_workers=1
    )
    before = service.recognised
    value = f"Bearer {given}" if given is None or given.isascii() else f"Bearer {given}".encode()
    key = "authorization" if isinstance(value, str) else "authorization-bin"
    metadata = () if given is None else ((key, value),)
    request = transcription_pb2.AudioRequest(audio_data=recordings.control(), filename="a.wav")
    calls = (
        lambda: house.stub.TranscribeAudio(request, metadata=metadata, timeout=PATIENCE_S),
        lambda: house.stub.TranscribeAudioStream(
            pieces(recordings.control(), filename="a.wav"), metadata=metadata, timeout=PATIENCE_S
        ),
        lambda: list(
            house.stub.TranscribeAudioIncremental(
                pieces(recordings.control(), filename="a.wav"), metadata=metadata, timeout=PATIENCE_S
            )
        ),
    )
    for call in calls:
        assert status_of(call).code() is Code.UNAUTHENTICATED
    assert service.recognised == before
    assert house.decoders() == []


@row(44)
def test_a_refusal_for_want_of_a_token_does_not_wait_for_the_upload(start_server: OpenHouse) -> None:
    house = start_server(auth_token_hashes=(hashlib.sha256(TOKEN.encode()).hexdigest(),), token=TOKEN)
    house.token, sent = None, itertools.count()
    endless = (transcription_pb2.AudioChunk(chunk_data=bytes(64 * 1024)) for number in sent if number < 16_000)
    assert status_of(lambda: house.stream(endless)).code() is Code.UNAUTHENTICATED
    assert next(sent) < 1000
    house.token = TOKEN


@row(45)
@pytest.mark.parametrize("streamed", [False, True])
def test_an_exception_in_a_handler_gives_its_request_id_and_nothing_else(
    start_server: OpenHouse, caplog: pytest.LogCaptureFixture, streamed: bool
) -> None:
    service = NumberingService()
    house = start_server(service)

    def fail(number: int) -> None:
        raise KeyError("a secret of the server")

    service.at_chunk = fail
    audio_bytes = recordings.control()
    error: Any = status_of(
        lambda: house.stream(pieces(audio_bytes, filename="a.wav")) if streamed else house.ask(audio_bytes)
    )
    assert error.code() is Code.INTERNAL
    assert "secret" not in error.details() and "Traceback" not in error.details()
    request_id = error.details().split()[-1]
    assert request_id in caplog.text and "a secret of the server" in caplog.text and "Traceback" in caplog.text
    service.at_chunk = lambda number: None


def test_the_house_notices_what_is_left_behind(start_server: OpenHouse) -> None:
    house = start_server()
    left, stop = os.dup(0), threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-behind")
    thread.start()
    held = house._held() - house._before
    assert sum(held.values()) >= 2 and "left-behind" in held
    stop.set()
    thread.join()
    os.close(left)


def test_a_house_is_one_server_on_a_port_of_its_own(start_server: OpenHouse) -> None:
    house: ServerHarness = start_server()
    with house.connect() as channel:
        stub = transcription_pb2_grpc.TranscriptionServiceStub(channel)
        request = transcription_pb2.AudioRequest(audio_data=recordings.control(), filename="a.wav")
        assert stub.TranscribeAudio(request, timeout=PATIENCE_S).success
