"""Rows 24, 28, 34 to 38, 46 and 47: faults of the process, its decoder, its disk, its port and its model."""

import errno
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.server import SERVICE_NAME, GrpcServer
from generated.v1 import transcription_pb2
from ml.errors import ModelFormatError
from resources.config import PROJECT_ROOT
from services.transcription.implementations import BorealisTranscriptionService
from tests.conftest import settings_for_tests
from tests.faults.conftest import StartServer
from tests.support import audio as media
from tests.support import process_stats, recordings, whisper
from tests.support.checkpoints import build_hand_made, save_upstream
from tests.support.fault_services import ChunkHook, NumberingService
from tests.support.harness import Answer, Health, ServerHarness, assert_rejected, assert_transcribed
from tests.support.marks import row
from tests.support.messages import stream_messages
from tests.support.ports import free_port
from tests.support.processes import run
from tests.support.program import STUCK
from tests.support.raw_http2 import HalfCall
from tests.support.server_process import Served, served
from tests.support.waiting import HANG_LIMIT_S, wait_until

MIB = 1024**2
UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
Code = grpc.StatusCode
AMPLE = {"SHUTDOWN_GRACE_S": str(HANG_LIMIT_S), "STREAM_IDLE_TIMEOUT_S": str(HANG_LIMIT_S)}


@row(24)
@pytest.mark.slow
def test_a_bomb_as_message_compression_takes_no_memory() -> None:
    bomb_bytes = 400 * MIB
    with served("numbering", GRPC_MAX_RECEIVE_MESSAGE_LENGTH=str(4 * MIB)) as server:
        assert server.transcribe(recordings.control()).success
        before_bytes = process_stats.memory_bytes(server.process.pid, peak=True)
        call = server.channel.unary_unary(UNARY)
        with pytest.raises(grpc.RpcError) as failure:
            call(bytes(bomb_bytes), compression=grpc.Compression.Gzip, timeout=HANG_LIMIT_S)
        assert failure.value.code() is Code.RESOURCE_EXHAUSTED
        assert server.transcribe(recordings.control()).success
        assert process_stats.memory_bytes(server.process.pid, peak=True) - before_bytes < bomb_bytes / 4


@row(28)
@pytest.mark.slow
def test_many_half_sent_messages_leave_nothing_behind() -> None:
    with served("numbering", CONNECTION_MAX_AGE_S="1", CONNECTION_GRACE_S="1") as server:
        assert server.transcribe(recordings.control()).success
        pid = server.process.pid
        open_before = process_stats.descriptor_count(pid)
        halves = [HalfCall(server.port, UNARY, claimed_bytes=100 * MIB) for _ in range(30)]
        for half in halves:
            half.wait_until_ended()
            half.socket.close()
        assert server.transcribe(recordings.control()).success
        wait_until(lambda: process_stats.descriptor_count(pid) <= open_before + 2)


def begin_upload(server: Served, audio_bytes: bytes, may_end: threading.Event) -> Any:
    """A call that the server is already answering, and whose upload ends once `may_end` is set."""

    def upload() -> Iterator[transcription_pb2.AudioChunk]:
        yield from stream_messages(audio_bytes, filename="a.wav")
        may_end.wait(HANG_LIMIT_S)

    updates = server.stub.TranscribeAudioIncremental(upload(), timeout=HANG_LIMIT_S)
    next(updates)
    return updates


def check_sigterm(server: Served, audio_bytes: bytes) -> list[transcription_pb2.TranscriptionResponse]:
    """End a server that answers calls; return their responses. New calls and the health service say that it ends."""
    may_end = threading.Event()
    watching = server.watch()
    assert next(watching).status == Health.SERVING
    calls = [begin_upload(server, audio_bytes, may_end) for _ in range(3)]
    server.process.send_signal(signal.SIGTERM)
    assert next(watching).status == Health.NOT_SERVING
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as failure:
            server.transcribe(recordings.control())
        assert failure.value.code() is Code.UNAVAILABLE
    may_end.set()
    responses = [[*call][-1].response for call in calls]
    watching.cancel()
    assert server.exit_code() == 0
    return responses


@row(34)
def test_calls_in_flight_finish_after_sigterm_and_new_ones_are_rejected() -> None:
    with served("numbering", MODEL_CHUNK_DURATION="1", **AMPLE) as server:
        assert all(response.success for response in check_sigterm(server, recordings.recording("wav")))


@row(34)
@pytest.mark.speech
def test_calls_in_flight_over_whisper_finish_after_sigterm() -> None:
    audio_bytes = media.wav(whisper.free_text())
    model = {"MODEL_NAME": str(whisper.whisper_base()), "MODEL_DEVICE": "cpu"}
    with served("whisper", MODEL_CHUNK_DURATION="5", **model, **AMPLE) as server:
        texts = [response.transcript for response in check_sigterm(server, audio_bytes)]
    assert len({*texts}) == 1 and len(texts[0].split()) > 0.9 * len(whisper.said().split())


@row(34)
def test_the_end_after_sigterm_is_bounded_by_the_grace() -> None:
    with served("stuck", SHUTDOWN_GRACE_S="0.5") as server:
        calls = [server.begin(recordings.control()) for _ in range(3)]
        server.wait_until_printed(STUCK, times=len(calls))
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert all(call.code() in (Code.UNAVAILABLE, Code.CANCELLED) for call in calls)


def strike_at_first_chunk(server: ServerHarness, strike: Callable[[int], None]) -> None:
    """Call `strike` with the pid of the only running decoder as soon as its first chunk is there."""
    service = server.service
    assert isinstance(service, ChunkHook)

    def once(number: int) -> None:
        service.at_chunk = lambda number: None
        (decoder,) = server.decoders()
        strike(decoder)

    service.at_chunk = once


def transcribe_long(server: ServerHarness, streamed: bool) -> Answer:
    """Send a recording whose decoder is still running at its first chunk: it is more than a pipe holds."""
    audio_bytes = media.voice_wav(100, sample_rate=8000)
    if streamed:
        return server.transcribe_stream(stream_messages(audio_bytes, filename="a.wav"))
    return server.transcribe(audio_bytes)


@row(35)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_decoder_killed_fails_its_own_request_only(
    start_server: StartServer, blow: signal.Signals, streamed: bool
) -> None:
    server = start_server(model_chunk_duration=1)
    strike_at_first_chunk(server, lambda decoder: os.kill(decoder, blow))
    assert_rejected([transcribe_long(server, streamed)], "UNDECODABLE_AUDIO")


@row(35)
def test_a_decoder_killed_does_not_touch_the_requests_beside_it(start_server: StartServer) -> None:
    service, may_go_on = NumberingService(), threading.Event()
    server = start_server(service, model_chunk_duration=1)
    decoders: list[int] = []

    def note(number: int) -> None:
        if number == 1:
            decoders[:] = server.decoders()
        assert may_go_on.wait(HANG_LIMIT_S)

    service.at_chunk = note
    calls = []
    for count in (1, 2, 3):
        calls.append(server.begin(media.voice_wav(100, sample_rate=8000)))
        wait_until(lambda count=count: len(decoders) == count)
    os.kill(decoders[1], signal.SIGKILL)
    may_go_on.set()
    answers = [call.result(timeout=HANG_LIMIT_S) for call in calls]
    assert sorted(answer.success for answer in answers) == [False, True, True]
    service.at_chunk = lambda number: None


@row(36)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_decoder_stopped_ends_at_its_time_limit(start_server: StartServer, streamed: bool) -> None:
    server = start_server(model_chunk_duration=1, audio_decode_timeout_s=2)
    strike_at_first_chunk(server, lambda decoder: os.kill(decoder, signal.SIGSTOP))
    answer = transcribe_long(server, streamed)
    assert_rejected([answer], "UNDECODABLE_AUDIO")
    assert "AUDIO_DECODE_TIMEOUT_S" in answer.response.error_message


def assert_refuses_to_start(*mentions: str, **settings: str) -> None:
    """Check that the program ends with one line on standard error that contains all `mentions`."""
    flags = {"--host": "127.0.0.1", "--implementation": "numbering"}
    arguments = [part for flag in flags.items() for part in flag]
    result = run(
        PROJECT_ROOT,
        "-m",
        "tests.support.program",
        *arguments,
        **{"SERVER_PORT": "0", "LOGGING_LEVEL": "ERROR"} | settings,
    )
    assert result.returncode not in (0, None)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    for mention in mentions:
        assert mention in result.stderr


@row(37)
def test_without_the_configured_decoder_it_refuses_to_start(tmp_path: Path) -> None:
    assert_refuses_to_start("FFMPEG_BINARY", "pip install imageio-ffmpeg", FFMPEG_BINARY=str(tmp_path / "ffmpeg"))


@row(37)
def test_without_any_decoder_it_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "imageio_ffmpeg.py").write_text("raise ImportError")
    assert_refuses_to_start("FFMPEG_BINARY", "pip install imageio-ffmpeg", PYTHONPATH=str(tmp_path), PATH="/nowhere")


def full_disk(**options: Any) -> BinaryIO:
    """A file on a full disk."""
    return Path("/dev/full").open("w+b", buffering=0)


def no_file_at_all(**options: Any) -> BinaryIO:
    raise OSError(errno.ENOSPC, "No space left on device")


@row(38)
@pytest.mark.parametrize("disk", [full_disk, no_file_at_all])
def test_without_space_for_the_spool_there_is_a_promised_error(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch, disk: Callable[..., BinaryIO]
) -> None:
    server = start_server()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", disk)
        for call in (
            lambda: server.transcribe(recordings.control()),
            lambda: server.transcribe_stream(stream_messages(recordings.control(), filename="a.wav")),
        ):
            with pytest.raises(grpc.RpcError) as failure:
                call()
            assert failure.value.code() is Code.RESOURCE_EXHAUSTED
            assert dict(failure.value.trailing_metadata())["x-error-code"] == "NO_SPACE"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte; skips where mounting needs more rights."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount") or os.system(f"mount -t tmpfs -o size=1m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount {folder}")


@row(38)
@pytest.mark.slow
def test_a_disk_that_fills_up_is_free_again_afterwards(
    start_server: StartServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(small_disk))
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as failure:
                server.transcribe_stream(stream_messages(media.voice_wav(60), filename="a.wav"))  # 1.9 MB
            assert failure.value.code() is Code.RESOURCE_EXHAUSTED
            assert_transcribed([server.transcribe(media.voice_wav(20))], 20)  # 0.6 MB


@row(46)
def test_a_taken_port_is_refused_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert_refuses_to_start(port, "SERVER_PORT", SERVER_PORT=port)


@pytest.fixture(scope="module")
def good_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_upstream(build_hand_made(), tmp_path_factory.mktemp("models") / "good")


def cut_in_half(weights: Path) -> None:
    os.truncate(weights, weights.stat().st_size // 2)


def overwrite(weights: Path) -> None:
    weights.write_bytes(recordings.random_bytes())


@row(47)
@pytest.mark.parametrize("damage", [cut_in_half, overwrite])
def test_corrupt_weights_fail_the_start_and_it_never_serves(
    good_model: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good_model, folder)
    damage(folder / "pytorch_model.bin")
    settings = settings_for_tests(model_name=str(folder), model_cache_dir=tmp_path / "cache")
    server = GrpcServer(BorealisTranscriptionService(), settings)
    request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    reported: list[int] = []
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        listener = threading.Thread(target=_collect, args=(stub.Watch(request), reported))
        listener.start()
        try:
            with pytest.raises(ModelFormatError):
                server.start()
            wait_until(lambda: reported)
            assert stub.Check(request, timeout=HANG_LIMIT_S).status == Health.NOT_SERVING
        finally:
            server.stop()
            listener.join()
    assert Health.SERVING not in reported


def _collect(updates: Any, reported: list[int]) -> None:
    try:
        for update in updates:
            reported.append(update.status)
    except grpc.RpcError:
        return


@row(47)
@pytest.mark.slow
def test_corrupt_weights_end_the_program_with_one_line(good_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(good_model, folder)
    cut_in_half(folder / "pytorch_model.bin")
    result = run(
        PROJECT_ROOT,
        *("start.py", "--port", str(free_port()), "--host", "127.0.0.1", "--model", str(folder), "--device", "cpu"),
        MODEL_CACHE_DIR=str(tmp_path / "cache"),
        LOGGING_LEVEL="ERROR",
    )
    assert result.returncode not in (0, None)
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert str(tmp_path) not in result.stderr
