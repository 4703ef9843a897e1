"""The client library against a real server around a fake recogniser."""

import _thread
import math
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from api.grpc.client import RetryPolicy, TranscriptionClient, TranscriptionRefusedError
from api.grpc.client.responses import IncompleteAnswerError
from api.grpc.server import GrpcServer
from generated.v1 import transcription_pb2
from services.transcription import base_service
from tests.support.client_server import UNREACHABLE, ChecksumService, expected_text, listening, write_wav
from tests.support.running import calls_ended
from tests.support.waiting import HANG_LIMIT_S, wait_until

NO_RETRIES = RetryPolicy(max_attempts=1)
QUICK = RetryPolicy(max_attempts=3, initial_backoff_s=0.01)
METHODS = ["transcribe", "transcribe_stream", "transcribe_incremental"]


def test_unary_call_returns_the_transcript_and_its_statistics(address: str, recording: Path) -> None:
    with TranscriptionClient(address) as client:
        response = client.transcribe(recording)
    assert (response.success, response.transcript) == (True, expected_text(recording))
    assert response.audio_duration == pytest.approx(3.0)
    assert (response.stats.word_count, response.stats.char_count) == (1, len(response.transcript))


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 96_043, 96_044, 10_000_000])
def test_streamed_call_sends_every_byte_in_order_whatever_the_piece(
    address: str, recording: Path, chunk_bytes: int
) -> None:
    size_bytes = recording.stat().st_size
    if chunk_bytes == 1:  # a message for each byte is slow: a short file suffices
        recording = recording.with_name("short.wav")
        recording.write_bytes(write_wav(recording, seconds=1).read_bytes()[: 44 + 2000])
        size_bytes = recording.stat().st_size
    sent: list[int] = []
    with TranscriptionClient(address) as client:
        response = client.transcribe_stream(recording, chunk_bytes, sent.append)
        assert response.transcript == client.transcribe(recording).transcript
    assert sum(sent) == size_bytes and len(sent) == math.ceil(size_bytes / chunk_bytes)


@pytest.mark.parametrize("stream", [False, True])
def test_file_without_an_ending_needs_a_format(address: str, recording: Path, stream: bool) -> None:
    nameless = recording.rename(recording.with_name("запись"))
    with TranscriptionClient(address) as client:
        send = client.transcribe_stream if stream else client.transcribe
        with pytest.raises(TranscriptionRefusedError) as refusal:
            send(nameless)
        assert refusal.value.code == "UNSUPPORTED_FORMAT"
        assert send(nameless, audio_format="wav").transcript == expected_text(nameless)


@pytest.mark.parametrize("stream", [False, True])
def test_raw_pcm_carries_its_sample_rate(address: str, recording: Path, stream: bool) -> None:
    raw = recording.with_suffix(".pcm")
    raw.write_bytes(recording.read_bytes()[44:])
    with TranscriptionClient(address) as client:
        send = client.transcribe_stream if stream else client.transcribe
        assert send(raw, sample_rate=8_000).audio_duration == pytest.approx(6.0, abs=0.01)


def test_empty_file_is_rejected_in_band_through_the_stream(address: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp3"
    empty.touch()
    with TranscriptionClient(address) as client, pytest.raises(TranscriptionRefusedError) as refusal:
        client.transcribe_stream(empty)
    assert refusal.value.code == "EMPTY_AUDIO"
    assert not refusal.value.response.success and refusal.value.response.error_message == str(refusal.value)


@pytest.mark.parametrize("method", ["transcribe", "transcribe_stream"])
def test_call_to_a_server_that_is_not_ready_yet_is_repeated(
    server: GrpcServer, service: ChecksumService, tmp_path: Path, method: str
) -> None:
    recording = write_wav(tmp_path / "large.wav", seconds=25)  # 800 kB: more than gRPC buffers for its own retries
    rpc = {"transcribe": "TranscribeAudio", "transcribe_stream": "TranscribeAudioStream"}[method]

    def open_after_a_rejection() -> None:
        wait_until(lambda: calls_ended(server, rpc, "UNAVAILABLE"))
        service.may_start.set()

    service.may_start.clear()
    threads = [threading.Thread(target=target) for target in (server.start, open_after_a_rejection)]
    for thread in threads:
        thread.start()
    with TranscriptionClient(f"127.0.0.1:{server.port}", HANG_LIMIT_S) as client:
        response = getattr(client, method)(recording)
    for thread in threads:
        thread.join()
    assert response.transcript == expected_text(recording)


def test_call_without_retries_fails_at_a_server_that_is_not_ready_yet(
    server: GrpcServer, service: ChecksumService, recording: Path
) -> None:
    service.may_start.clear()
    starting = threading.Thread(target=server.start)
    starting.start()
    client = TranscriptionClient(f"127.0.0.1:{server.port}", HANG_LIMIT_S, retry=NO_RETRIES)
    with client, pytest.raises(grpc.RpcError) as failure:
        client.transcribe(recording)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    service.may_start.set()
    starting.join()


def test_timeout_ends_the_call_and_the_work_on_the_server(
    address: str, service: ChecksumService, recording: Path
) -> None:
    service.may_answer.clear()
    timeout_s = 0.25
    while not service.asked.is_set():  # a call with a short timeout may end before its audio is decoded
        timeout_s *= 2
        with TranscriptionClient(address, timeout_s) as client, pytest.raises(grpc.RpcError) as failure:
            client.transcribe_stream(recording)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.saw_cancellation.wait(HANG_LIMIT_S)


def functions_of_main_thread() -> set[str]:
    """The names of the functions that the main thread is in."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return {entry.name for entry in traceback.extract_stack(frame, limit=None)}


@pytest.mark.parametrize("stream", [False, True])
def test_interrupted_call_is_cancelled_although_the_connection_stays_open(
    address: str, service: ChecksumService, recording: Path, stream: bool
) -> None:
    def interrupt() -> None:
        assert service.asked.wait(HANG_LIMIT_S)
        wait_until(lambda: "result" in functions_of_main_thread())  # it waits for the response
        _thread.interrupt_main()

    service.may_answer.clear()
    with TranscriptionClient(address, 2 * HANG_LIMIT_S) as client:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt) as interruption:
            (client.transcribe_stream if stream else client.transcribe)(recording)
        assert service.saw_cancellation.wait(HANG_LIMIT_S)
        assert interruption.tb  # keeps a reference to the call: gRPC cancels a call by itself when the last one goes


def test_message_beyond_the_limit_is_sent_only_as_a_stream(address: str, recording: Path) -> None:
    with TranscriptionClient(address, max_message_bytes=90_000) as client:
        with pytest.raises(grpc.RpcError) as failure:
            client.transcribe(recording)
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.transcribe_stream(recording).transcript == expected_text(recording)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens but cannot be read")
def test_file_that_cannot_be_read_while_it_is_sent_is_named_as_the_cause(address: str) -> None:
    unreadable = Path("/proc/self/mem")
    with TranscriptionClient(address) as client, pytest.raises(OSError, match="Input/output"):
        client.transcribe_stream(unreadable, audio_format="wav")


def test_pieces_of_no_bytes_are_rejected_before_any_call(recording: Path) -> None:
    with TranscriptionClient(UNREACHABLE) as client, pytest.raises(ValueError, match="chunk_bytes"):
        client.transcribe_stream(recording, chunk_bytes=0)


class Overloaded(ChecksumService):
    """Has too much audio queued at its first calls, which it finds only after they are admitted."""

    def __init__(self, rejections: int) -> None:
        super().__init__()
        self.rejections = rejections
        self.asked_at_s: list[float] = []

    def queued_audio_s(self) -> float:
        self.asked_at_s.append(time.monotonic())
        return math.inf if len(self.asked_at_s) <= self.rejections else 0.0


@pytest.mark.parametrize("method", METHODS)
def test_overloaded_server_is_asked_again_after_its_pushback_however_large_the_file(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_service, "PUSHBACK_MS", 300)
    recording = write_wav(tmp_path / "large.wav", seconds=25)  # 800 kB
    service, sent = Overloaded(rejections=1), [0]
    options: dict[str, Any] = {} if method == "transcribe" else {"on_sent": sent.append}
    with listening(service) as server, TranscriptionClient(f"127.0.0.1:{server.port}", retry=QUICK) as client:
        server.start()
        response = getattr(client, method)(recording, **options)
    assert response.transcript == expected_text(recording)
    first, second = service.asked_at_s
    assert second - first >= 0.3  # QUICK itself would have waited for 0.01 s
    assert sum(sent) == (0 if method == "transcribe" else recording.stat().st_size)


def test_last_attempt_raises_its_error(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_service, "PUSHBACK_MS", 10)
    service = Overloaded(rejections=99)
    policy = RetryPolicy(max_attempts=2)
    with listening(service) as server, TranscriptionClient(f"127.0.0.1:{server.port}", retry=policy) as client:
        server.start()
        with pytest.raises(grpc.RpcError) as failure:
            client.transcribe(recording)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE and len(service.asked_at_s) == 2


def test_attempt_that_the_timeout_does_not_allow_is_not_waited_for(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_service, "PUSHBACK_MS", 20_000 * HANG_LIMIT_S)
    service, timeout_s = Overloaded(rejections=99), 10 * HANG_LIMIT_S
    with listening(service) as server, TranscriptionClient(f"127.0.0.1:{server.port}", timeout_s) as client:
        server.start()
        started_s = time.monotonic()
        with pytest.raises(grpc.RpcError) as failure:
            client.transcribe(recording)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE and len(service.asked_at_s) == 1
    assert time.monotonic() - started_s < HANG_LIMIT_S


class ClosingPolicy(RetryPolicy):
    """Asks for a long pause, and announces it."""

    pausing = threading.Event()

    def pause_s(self, attempts_made: int, error: grpc.RpcError) -> float:
        self.pausing.set()
        return 10 * HANG_LIMIT_S


def test_closing_the_client_ends_the_wait_for_another_attempt(recording: Path) -> None:
    client = TranscriptionClient(UNREACHABLE, retry=ClosingPolicy())

    def close() -> None:
        assert ClosingPolicy.pausing.wait(HANG_LIMIT_S)
        client.close()

    closing = threading.Thread(target=close)
    closing.start()
    started_s = time.monotonic()
    with pytest.raises(grpc.RpcError):
        client.transcribe(recording)
    assert time.monotonic() - started_s < HANG_LIMIT_S
    closing.join()


class PushingBack(ChecksumService):
    """Is never available, and asks for the given pushback."""

    def __init__(self, pushback: str) -> None:
        super().__init__()
        self._pushback = pushback
        self.calls = 0

    def TranscribeAudio(self, request: Any, context: grpc.ServicerContext) -> transcription_pb2.TranscriptionResponse:
        self.calls += 1
        context.set_trailing_metadata((("grpc-retry-pushback-ms", self._pushback),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "не сейчас")
        raise AssertionError("abort raises")


@pytest.mark.parametrize(("pushback", "calls"), [("0", 3), ("-1", 1), ("soon", 1)])
def test_pushback_decides_whether_there_is_another_attempt(recording: Path, pushback: str, calls: int) -> None:
    service = PushingBack(pushback)
    with listening(service) as server, TranscriptionClient(f"127.0.0.1:{server.port}", retry=QUICK) as client:
        server.start()
        with pytest.raises(grpc.RpcError):
            client.transcribe(recording)
    assert service.calls == calls


class Updates:
    """Collects what transcribe_incremental passes on."""

    def __init__(self) -> None:
        self.segments: list[transcription_pb2.Segment] = []
        self.done_s: list[float] = []

    def collect(self, client: TranscriptionClient, recording: Path) -> transcription_pb2.TranscriptionResponse:
        return client.transcribe_incremental(
            recording,
            on_segment=self.segments.append,
            on_progress=lambda progress: self.done_s.append(progress.done_s),
        )


def test_incremental_call_passes_every_segment_on_and_ends_as_the_unary_call_does(tmp_path: Path) -> None:
    recording, updates = write_wav(tmp_path / "a.wav", seconds=8), Updates()
    with (
        listening(ChecksumService(), model_chunk_duration=3) as server,
        TranscriptionClient(f"127.0.0.1:{server.port}") as client,
    ):
        server.start()
        response = updates.collect(client, recording)
        assert response.transcript == client.transcribe(recording).transcript
    assert len(updates.segments) > 1 and updates.segments == list(response.segments)
    assert updates.done_s[-1] == response.audio_duration == pytest.approx(8)


class BreakingOff(ChecksumService):
    """Breaks off its first incremental answer after one segment."""

    calls = 0

    def TranscribeAudioIncremental(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        self.calls += 1
        for update in super().TranscribeAudioIncremental(request_iterator, context):
            yield update
            if self.calls == 1 and update.HasField("segment"):
                context.abort(grpc.StatusCode.UNAVAILABLE, "сервер уходит")


def test_each_segment_is_passed_on_once_even_if_the_call_is_repeated(tmp_path: Path) -> None:
    recording, service, updates = write_wav(tmp_path / "a.wav", seconds=8), BreakingOff(), Updates()
    with (
        listening(service, model_chunk_duration=3) as server,
        TranscriptionClient(f"127.0.0.1:{server.port}", retry=QUICK) as client,
    ):
        server.start()
        response = updates.collect(client, recording)
    assert service.calls == 2 and updates.segments == list(response.segments)


class WithoutUpdates(ChecksumService):
    """Overrides the incremental call with one that is not supported."""

    calls = 0

    def TranscribeAudioIncremental(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        self.calls += 1
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "не умею")
        yield


def test_server_without_the_incremental_call_gets_streams_after_one_attempt(recording: Path) -> None:
    service, sent = WithoutUpdates(), [0]
    with listening(service) as server, TranscriptionClient(f"127.0.0.1:{server.port}") as client:
        server.start()
        for _ in range(2):
            response = client.transcribe_incremental(recording, on_sent=sent.append)
            assert response.transcript == expected_text(recording)
    assert service.calls == 1 and sum(sent) == 2 * recording.stat().st_size


class EndingEarly(ChecksumService):
    """Ends with status OK but without a response, which the contract does not allow."""

    def TranscribeAudioIncremental(self, request_iterator: Any, context: Any) -> Iterator[Any]:
        return iter(())


def test_incremental_answer_without_a_response_is_an_error(recording: Path) -> None:
    with listening(EndingEarly()) as server, TranscriptionClient(f"127.0.0.1:{server.port}") as client:
        server.start()
        with pytest.raises(IncompleteAnswerError):
            client.transcribe_incremental(recording)


def test_incremental_call_raises_the_code_of_rejected_content(address: str, tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp3"
    noise.write_bytes(b"not audio at all" * 100)
    with TranscriptionClient(address) as client, pytest.raises(TranscriptionRefusedError) as refusal:
        client.transcribe_incremental(noise)
    assert refusal.value.code == "UNDECODABLE_AUDIO"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file system that takes any bytes for a name")
def test_file_with_a_name_that_is_no_text_is_sent_nevertheless(address: str, recording: Path) -> None:
    odd = recording.rename(recording.with_name("\udcff\udcfe.wav"))
    with TranscriptionClient(address) as client:
        for method in METHODS:
            assert getattr(client, method)(odd).transcript == expected_text(odd)
