"""Rows 24, 28, 34 to 38, 46 and 47: what befalls the process, its decoder, its disk, its port and its model."""

import errno
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api.grpc.server import SERVICE_NAME, TranscriptionServer
from ml.errors import ModelFormatError
from resources.config import PROJECT_ROOT
from services.transcription.implementations import BorealisTranscriptionService
from tests.conftest import settings_for_tests
from tests.faults.conftest import OpenHouse
from tests.support import audio as media
from tests.support import process_stats as belongings
from tests.support import recordings
from tests.support.checkpoints import build_hand_made, save_upstream
from tests.support.fault_services import NumberingService, Watched
from tests.support.harness import PATIENCE_S, Health, ServerHarness, assert_refused, assert_transcribed, pieces
from tests.support.marks import row
from tests.support.ports import free_port
from tests.support.processes import run
from tests.support.raw_http2 import HalfCall
from tests.support.server_process import served

MIB = 1024**2
UNARY = f"/{SERVICE_NAME}/TranscribeAudio"
Code = grpc.StatusCode


@row(24)
@pytest.mark.slow
def test_a_bomb_as_message_compression_takes_no_memory() -> None:
    with served("reciter", GRPC_MAX_RECEIVE_MESSAGE_LENGTH=str(4 * MIB)) as server:
        assert server.ask(recordings.control()).success
        before_bytes = belongings.memory_bytes(server.process.pid, peak=True)
        call = server.channel.unary_unary(UNARY)
        with pytest.raises(grpc.RpcError) as refusal:
            call(bytes(400 * MIB), compression=grpc.Compression.Gzip, timeout=60)
        assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
        assert server.ask(recordings.control()).success
        assert belongings.memory_bytes(server.process.pid, peak=True) - before_bytes < 64 * MIB


@row(28)
@pytest.mark.slow
def test_many_half_sent_messages_leave_nothing_behind() -> None:
    with served("reciter", CONNECTION_MAX_AGE_S="1", CONNECTION_GRACE_S="1") as server:
        assert server.ask(recordings.control()).success
        open_before = sum(belongings.descriptors(server.process.pid).values())
        halves = [HalfCall(server.port, UNARY, claimed_bytes=100 * MIB) for _ in range(30)]
        for half in halves:
            half.wait_until_ended()
            half.socket.close()
        assert server.ask(recordings.control()).success
        belongings.assert_settles(lambda: sum(belongings.descriptors(server.process.pid).values()) > open_before + 2)


@row(34)
def test_calls_in_flight_finish_after_sigterm_and_new_ones_are_refused() -> None:
    with served("slow", SHUTDOWN_GRACE_S="20") as server:
        watching = server.watch()
        assert next(watching).status == Health.SERVING
        calls = [server.begin(recordings.control()) for _ in range(3)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert next(watching).status == Health.NOT_SERVING
        for _ in range(20):
            with pytest.raises(grpc.RpcError) as refusal:
                server.ask(recordings.control())
            assert refusal.value.code() is Code.UNAVAILABLE
        assert all(call.result(timeout=PATIENCE_S).success for call in calls)
        code, waited_s = server.wait(PATIENCE_S)
        assert code == 0 and waited_s < 10


@row(34)
def test_the_end_after_sigterm_is_bounded_by_the_grace() -> None:
    with served("stuck", SHUTDOWN_GRACE_S="0.5") as server:
        calls = [server.begin(recordings.control()) for _ in range(3)]
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        code, waited_s = server.wait(PATIENCE_S)
        assert code == 0 and waited_s < 10
        assert all(call.code() in (Code.UNAVAILABLE, Code.CANCELLED) for call in calls)


def at_first_chunk(house: ServerHarness, strike: Callable[[int], None]) -> None:
    """Does something to the one decoder that runs as soon as a chunk has come out of it."""
    service = house.service
    assert isinstance(service, Watched)

    def once(number: int) -> None:
        service.at_chunk = lambda number: None
        (decoder,) = house.decoders()
        strike(decoder)

    service.at_chunk = once


@row(35)
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSEGV])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_decoder_killed_fails_its_own_request_only(
    start_server: OpenHouse, blow: signal.Signals, streamed: bool
) -> None:
    house = start_server(model_chunk_duration=1)
    audio_bytes = media.wav(media.voice(100, sample_rate=8000), 8000)
    at_first_chunk(house, lambda decoder: os.kill(decoder, blow))
    answer = house.stream(pieces(audio_bytes, filename="a.wav")) if streamed else house.ask(audio_bytes)
    assert_refused([answer], "UNDECODABLE_AUDIO")


@row(35)
def test_a_decoder_killed_does_not_touch_the_requests_beside_it(start_server: OpenHouse) -> None:
    service, may_go_on = NumberingService(), threading.Event()
    house = start_server(service, model_chunk_duration=1)
    decoders: list[int] = []

    def note(number: int) -> None:
        if number == 1:
            decoders[:] = house.decoders()
        assert may_go_on.wait(PATIENCE_S)

    service.at_chunk = note
    calls = []
    for count in (1, 2, 3):
        calls.append(house.begin(media.wav(media.voice(100, sample_rate=8000), 8000)))
        belongings.assert_settles(lambda count=count: len(decoders), count)
    os.kill(decoders[1], signal.SIGKILL)
    may_go_on.set()
    answers = [call.result(timeout=PATIENCE_S) for call in calls]
    assert sorted(answer.success for answer in answers) == [False, True, True]
    service.at_chunk = lambda number: None


@row(36)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_decoder_stopped_ends_at_its_time_limit(start_server: OpenHouse, streamed: bool) -> None:
    house = start_server(model_chunk_duration=1, audio_decode_timeout_s=1)
    audio_bytes = media.wav(media.voice(100, sample_rate=8000), 8000)
    at_first_chunk(house, lambda decoder: os.kill(decoder, signal.SIGSTOP))
    started_s = time.monotonic()
    answer = house.stream(pieces(audio_bytes, filename="a.wav")) if streamed else house.ask(audio_bytes)
    assert time.monotonic() - started_s < 10
    assert_refused([answer], "UNDECODABLE_AUDIO")
    assert "AUDIO_DECODE_TIMEOUT_S" in answer.response.error_message


def assert_refuses_to_start(*mentions: str, **settings: str) -> None:
    """The program ends at once with one line that mentions what it should."""
    flags = {"--host": "127.0.0.1", "--implementation": "reciter"}
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
    """A file on a disk without room."""
    return Path("/dev/full").open("w+b", buffering=0)


def no_file_at_all(**options: Any) -> BinaryIO:
    raise OSError(errno.ENOSPC, "No space left on device")


@row(38)
@pytest.mark.parametrize("disk", [full_disk, no_file_at_all])
def test_without_space_for_the_spool_there_is_a_promised_error(
    start_server: OpenHouse, monkeypatch: pytest.MonkeyPatch, disk: Callable[..., BinaryIO]
) -> None:
    house = start_server()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", disk)
        for call in (
            lambda: house.ask(recordings.control()),
            lambda: house.stream(pieces(recordings.control(), filename="a.wav")),
        ):
            with pytest.raises(grpc.RpcError) as refusal:
                call()
            assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
            assert dict(refusal.value.trailing_metadata())["x-error-code"] == "NO_SPACE"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not shutil.which("mount") or os.system(f"mount -t tmpfs -o size=1m tmpfs {folder} 2>/dev/null") != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount {folder}")


@row(38)
@pytest.mark.slow
def test_a_disk_that_fills_up_is_free_again_afterwards(
    start_server: OpenHouse, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = start_server()
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(small_disk))
        for _ in range(3):
            with pytest.raises(grpc.RpcError) as refusal:
                house.stream(pieces(media.wav(media.voice(60)), filename="a.wav"))  # 1.9 MB
            assert refusal.value.code() is Code.RESOURCE_EXHAUSTED
            assert_transcribed([house.ask(media.wav(media.voice(20)))], 20)  # 0.6 MB


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
    server = TranscriptionServer(BorealisTranscriptionService(), settings)
    heard: list[int] = []
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
        listener = threading.Thread(target=lambda: _collect(watching, heard))
        listener.start()
        try:
            with pytest.raises(ModelFormatError):
                server.start()
            time.sleep(0.2)
        finally:
            server.stop()
            listener.join()
    assert heard and Health.SERVING not in heard


def _collect(updates: Any, heard: list[int]) -> None:
    try:
        heard.extend(update.status for update in updates)
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
