"""Over hundreds of repeats of a fault the server's memory is flat, and it holds nothing more than before."""

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest

from api.grpc.server import SERVICE_NAME
from generated.v1 import transcription_pb2
from tests.support import audio as media
from tests.support import process_stats, recordings
from tests.support.memory_growth import grows
from tests.support.messages import stream_messages
from tests.support.raw_http2 import HalfCall
from tests.support.server_process import Served, served
from tests.support.waiting import HANG_LIMIT_S, wait_until

pytestmark = pytest.mark.slow

MIB = 1024**2
AT_ONCE = 4
WARM_UP = 100  # repeats
BATCH, BATCHES = 25, 8  # memory is read after each batch
LEAK_BYTES = 1024  # per repeat; a call that is never freed takes 16 KB
ROUNDS = 8  # a leak grows in each of them; pools and the heap reach their sizes within a thousand repeats
UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
MESSAGE_LIMIT_BYTES = 2 * MIB


def unary(audio_bytes: bytes, filename: str = "a.wav") -> Callable[[Served], None]:
    """Send one message; any answer will do."""
    request = transcription_pb2.AudioRequest(audio_data=audio_bytes, filename=filename)

    def send(server: Served) -> None:
        with suppress(grpc.RpcError):
            server.stub.TranscribeAudio(request, timeout=HANG_LIMIT_S)

    return send


def stream(audio_bytes: bytes) -> Callable[[Served], None]:
    """Send a stream; any answer will do."""
    return lambda server: send_stream(server, stream_messages(audio_bytes, filename="a.wav"))


def send_stream(server: Served, messages: Iterator[transcription_pb2.AudioChunk]) -> None:
    with suppress(grpc.RpcError):
        server.stub.TranscribeAudioStream(messages, timeout=HANG_LIMIT_S)


def bytes_to(method: str) -> Callable[[Served], None]:
    """Send bytes that are no protobuf message."""

    def send(server: Served) -> None:
        with suppress(grpc.RpcError):
            server.channel.unary_unary(method)(b"\xff" * 100, timeout=HANG_LIMIT_S)

    return send


def cancel(server: Served) -> None:
    call = server.begin(recordings.recording("wav", 5))
    with suppress(grpc.FutureTimeoutError, grpc.FutureCancelledError):
        call.result(timeout=0.03)  # in the middle of it, more or less
    call.cancel()


def let_the_deadline_pass(server: Served) -> None:
    with suppress(grpc.RpcError):
        server.begin(recordings.recording("wav", 5), timeout_s=0.03).result()


def send_half(server: Served) -> None:
    with HalfCall(server.port, UNARY) as call:
        call.wait_until_received()


def send_half_a_health_check(server: Served) -> None:
    with HalfCall(server.port, "/grpc.health.v1.Health/Check") as call:
        call.wait_until_received()


def send_junk(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=HANG_LIMIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 1000)


class PausedUpload:
    """Five messages of a recording, and the end once `may_end` is set."""

    def __init__(self) -> None:
        self.paused, self.may_end = threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[transcription_pb2.AudioChunk]:
        yield from itertools.islice(stream_messages(recordings.recording("wav", 5), filename="a.wav"), 5)
        self.paused.set()
        self.may_end.wait(HANG_LIMIT_S)


def stop_sending(server: Served) -> None:
    upload = PausedUpload()
    send_stream(server, iter(upload))
    upload.may_end.set()


def cancel_a_stream(server: Served) -> None:
    upload = PausedUpload()
    call: Any = server.stub.TranscribeAudioStream.future(iter(upload), timeout=HANG_LIMIT_S)
    call.add_done_callback(lambda _: upload.paused.set())  # by the idle timeout, on a busy machine
    assert upload.paused.wait(HANG_LIMIT_S)
    call.cancel()
    upload.may_end.set()


def send_without_end(server: Served) -> None:
    message = transcription_pb2.AudioChunk(chunk_data=bytes(65_536), filename="a.wav")
    send_stream(server, itertools.repeat(message))


def send_a_bomb(server: Served) -> None:
    with suppress(grpc.RpcError):
        call = server.channel.unary_unary(UNARY)
        call(bytes(8 * MIB), compression=grpc.Compression.Gzip, timeout=HANG_LIMIT_S)


FAULTS: dict[str, Callable[[Served], None]] = {
    "1 nothing": unary(b""),
    "3 random bytes": unary(recordings.random_bytes()),
    "3 random bytes, streamed": stream(recordings.random_bytes()),
    "4 text": unary(recordings.text()),
    "2 no messages": lambda server: send_stream(server, iter(())),
    "5 header only": stream(media.wav_header(0)),
    "6 no sample rate": unary(recordings.wav_claiming(sample_rate=0)),
    "7 no channels": unary(recordings.wav_claiming(channels=0)),
    "8 enormous sample rate": unary(recordings.wav_claiming(sample_rate=2**31 - 1)),
    "9 too long": unary(recordings.wav_claiming(sample_rate=1)),
    "9 too long, streamed": stream(recordings.wav_claiming(sample_rate=1)),
    "10 unknown length": unary(recordings.wav_claiming(data_bytes=0xFFFF_FFFF)),
    "11 ten hours": unary(recordings.opus_bomb()),
    "12 no index": unary(recordings.m4a_without_index()),
    "13 index last, streamed": stream(recordings.recording("m4a", 2)),
    "14 truncated": unary(recordings.truncated("mp3")),
    "14 truncated, streamed": stream(recordings.truncated("flac")),
    "15 junk inside": unary(recordings.mp3_with_junk_inside()),
    "16 wrong ending": unary(recordings.recording("ogg", 2)),
    "17 playlist of an address": unary(recordings.playlist("http://127.0.0.1:9/a.ts")),
    "18 playlist": unary(recordings.playlist("/etc/hostname")),
    "19 file name": unary(recordings.control(), "../../" * 1000 + "a.wav"),
    "20 no sound": unary(recordings.video_without_sound()),
    "21 silence": unary(recordings.silence(1)),
    "22 too large": unary(bytes(MESSAGE_LIMIT_BYTES + 1000)),
    "23 stream too large": send_without_end,
    "24 bomb": send_a_bomb,
    "25 no message": bytes_to(UNARY),
    "25 no message, streamed": bytes_to(UNARY + "Stream"),
    "26 unknown method": bytes_to(f"/{SERVICE_NAME}/Nothing"),
    "27 junk on the port": send_junk,
    "28 half sent": send_half,
    "28 half a health check": send_half_a_health_check,
    "29 stops sending": stop_sending,
    "30 cancelled": cancel,
    "30 cancelled, streamed": cancel_a_stream,
    "31 deadline": let_the_deadline_pass,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.timeout(1200)
def test_memory_is_flat_over_repeats_of_a_fault(fault: str) -> None:
    settings = {
        "GRPC_MAX_RECEIVE_MESSAGE_LENGTH": str(MESSAGE_LIMIT_BYTES),
        "STREAM_MAX_BYTES": str(MIB),
        "AUDIO_MAX_DURATION_S": "30",
        "STREAM_IDLE_TIMEOUT_S": "0.3",
    }
    with served("numbering", **settings) as server, ThreadPoolExecutor(AT_ONCE) as clients:
        pid = server.process.pid

        def memory_after(repeats: int) -> int:
            list(clients.map(lambda _: FAULTS[fault](server), range(repeats)))
            assert server.transcribe(recordings.control()).success
            process_stats.wait_until_released(lambda: process_stats.children(pid))
            return process_stats.memory_bytes(pid)

        def grows_in_a_round() -> bool:
            memory_bytes = [memory_after(BATCH) for _ in range(BATCHES)]
            rounds.append(memory_bytes)
            return grows([BATCH * number for number in range(BATCHES)], memory_bytes, LEAK_BYTES)

        memory_after(WARM_UP)
        open_before, rounds = process_stats.descriptor_count(pid), []
        assert not all(grows_in_a_round() for _ in range(ROUNDS)), rounds
        wait_until(lambda: process_stats.descriptor_count(pid) <= open_before)
