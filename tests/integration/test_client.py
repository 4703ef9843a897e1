"""The client library and command line against a real server whose model is a fake."""

import _thread
import math
import os
import signal
import subprocess
import sys
import threading
import wave
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from api.grpc.client import RetryPolicy, TranscriptionClient, TranscriptionRefusedError, channel_options
from api.grpc.client_cli import main
from api.grpc.server import TranscriptionServer
from generated.v1 import transcription_pb2_grpc
from ml.audio.splitting import Chunk
from resources.config import Settings, load_settings
from services.transcription.base_service import TranscriptionServiceBase

ROOT = Path(__file__).resolve().parents[2]
NO_RETRIES = RetryPolicy(max_attempts=1)
NOBODY = "127.0.0.1:1"
PATIENCE_S = 30


class FakeService(TranscriptionServiceBase, transcription_pb2_grpc.TranscriptionServiceServicer):
    """ "Recognises" a chunk as its length and checksum, so that a single lost or moved byte shows in the text."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()
        self.may_answer = threading.Event()
        self.asked = threading.Event()
        self.saw_cancellation = threading.Event()
        self.may_start.set()
        self.may_answer.set()

    def start(self, settings: Settings) -> None:
        super().start(settings)
        assert self.may_start.wait(PATIENCE_S)

    def recognise(self, chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        self.asked.set()
        while not self.may_answer.wait(0.01):
            if cancelled.is_set():
                self.saw_cancellation.set()
                return
        for chunk in chunks:
            yield f"{len(chunk.waveform)}:{zlib.crc32(chunk.waveform.tobytes()):08x}"

    def get_version(self) -> str:
        return "fake"


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def server(service: FakeService) -> Iterator[TranscriptionServer]:
    """Listens, but is not started yet."""
    server = TranscriptionServer(service, load_settings(server_host="127.0.0.1", server_port=0, shutdown_grace_s=0))
    yield server
    service.may_start.set()
    server.stop()


@pytest.fixture
def address(server: TranscriptionServer) -> str:
    server.start()
    return f"127.0.0.1:{server.port}"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three seconds of quiet noise: 96,044 bytes."""
    return write_wav(tmp_path / "запись.wav", seconds=3)


def write_wav(path: Path, seconds: int) -> Path:
    samples = np.random.default_rng(7).integers(-500, 500, 16_000 * seconds).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return path


def expected_text(recording: Path) -> str:
    with wave.open(str(recording), "rb") as file:
        waveform = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return f"{len(waveform)}:{zlib.crc32(waveform.tobytes()):08x}"


def test_unary_call_returns_the_transcript_and_its_figures(address: str, recording: Path) -> None:
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
    if chunk_bytes == 1:  # a message a byte is slow: a short file will do
        recording = recording.with_name("short.wav")
        recording.write_bytes(write_wav(recording, seconds=1).read_bytes()[: 44 + 2000])
        size_bytes = recording.stat().st_size
    sent: list[int] = []
    with TranscriptionClient(address) as client:
        response = client.transcribe_stream(recording, chunk_bytes, sent.append)
        assert response.transcript == client.transcribe(recording).transcript
    assert sum(sent) == size_bytes and len(sent) == math.ceil(size_bytes / chunk_bytes)


@pytest.mark.parametrize("stream", [False, True])
def test_file_without_an_ending_needs_its_format_said(address: str, recording: Path, stream: bool) -> None:
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


def test_empty_file_is_refused_in_band_through_the_stream(address: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp3"
    empty.touch()
    with TranscriptionClient(address) as client, pytest.raises(TranscriptionRefusedError) as refusal:
        client.transcribe_stream(empty)
    assert refusal.value.code == "EMPTY_AUDIO"
    assert not refusal.value.response.success and refusal.value.response.error_message == str(refusal.value)


@pytest.mark.parametrize("stream", [False, True])
def test_call_that_meets_a_server_not_ready_yet_is_made_again(
    server: TranscriptionServer, service: FakeService, tmp_path: Path, stream: bool
) -> None:
    recording = write_wav(tmp_path / "large.wav", seconds=25)  # 800 kB: more than gRPC keeps for a retry by itself
    service.may_start.clear()
    starting = threading.Thread(target=server.start)
    starting.start()
    opening = threading.Timer(0.3, service.may_start.set)
    with TranscriptionClient(f"127.0.0.1:{server.port}", PATIENCE_S) as client:
        opening.start()
        response = client.transcribe_stream(recording) if stream else client.transcribe(recording)
    starting.join()
    assert response.transcript == expected_text(recording)


def test_without_retries_a_server_not_ready_yet_is_an_error_at_once(
    server: TranscriptionServer, service: FakeService, recording: Path
) -> None:
    service.may_start.clear()
    starting = threading.Thread(target=server.start)
    starting.start()
    client = TranscriptionClient(f"127.0.0.1:{server.port}", PATIENCE_S, retry=NO_RETRIES)
    with client, pytest.raises(grpc.RpcError) as failure:
        client.transcribe(recording)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    service.may_start.set()
    starting.join()


def test_timeout_ends_the_call_and_the_work_on_the_server(address: str, service: FakeService, recording: Path) -> None:
    service.may_answer.clear()
    with TranscriptionClient(address, timeout_s=0.5) as client, pytest.raises(grpc.RpcError) as failure:
        client.transcribe_stream(recording)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert service.saw_cancellation.wait(PATIENCE_S)


@pytest.mark.parametrize("stream", [False, True])
def test_interrupted_call_is_cancelled_though_the_connection_lives_on(
    address: str, service: FakeService, recording: Path, stream: bool
) -> None:
    def interrupt() -> None:
        assert service.asked.wait(PATIENCE_S)
        _thread.interrupt_main()

    service.may_answer.clear()
    with TranscriptionClient(address) as client:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt) as interruption:
            (client.transcribe_stream if stream else client.transcribe)(recording)
        assert service.saw_cancellation.wait(PATIENCE_S)
        assert interruption.tb  # holds on to the call, which gRPC would cancel by itself once nobody held it


def test_message_beyond_the_limit_never_leaves_unless_streamed(address: str, recording: Path) -> None:
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


def test_pieces_of_no_bytes_are_refused_before_any_call(recording: Path) -> None:
    with TranscriptionClient(NOBODY) as client, pytest.raises(ValueError, match="chunk_bytes"):
        client.transcribe_stream(recording, chunk_bytes=0)


def test_retry_buffer_holds_the_largest_message() -> None:
    options = dict(channel_options(max_message_bytes=12_345, retry=RetryPolicy()))
    assert options["grpc.per_rpc_retry_buffer_size"] >= options["grpc.max_send_message_length"]


@pytest.mark.parametrize("flags", [[], ["--stream"], ["--stream", "--chunk-bytes", "1000"]])
def test_command_prints_the_transcript_alone_on_stdout(
    address: str, recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--address", address, *flags]) == 0
    printed = capsys.readouterr()
    assert printed.out == expected_text(recording) + "\n"
    labels = [line.split(":")[0] for line in printed.err.splitlines()]  # no progress bar: stderr is not a terminal
    assert labels == ["Время обработки", "Длительность аудио", "Скорость", "Слов"]
    assert "Длительность аудио: 3.00 сек" in printed.err


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_command_ends_with_1_and_the_code_when_the_content_is_refused(
    address: str, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    noise = tmp_path / "noise.mp3"
    noise.write_bytes(b"not audio at all" * 100)
    assert main([str(noise), "--address", address, *flags]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "[UNDECODABLE_AUDIO]" in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_command_ends_with_2_and_one_line_when_nobody_answers(
    recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--address", NOBODY, *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert NOBODY in printed.err and "python start.py" in printed.err and "UNAVAILABLE" in printed.err


def test_command_names_the_timeout(
    address: str, service: FakeService, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.may_answer.clear()
    assert main([str(recording), "--address", address, "--timeout", "0.5"]) == 2
    assert "--timeout" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--stream"]])
@pytest.mark.parametrize(("name", "complaint"), [("nowhere.mp3", "Файл не найден"), ("", "Не удалось прочитать")])
def test_command_ends_with_2_and_one_line_when_there_is_no_such_file(
    tmp_path: Path, name: str, complaint: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / name), "--address", NOBODY, *flags]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize("bad", [["--chunk-bytes", "0"], ["--timeout", "-1"], ["--timeout", "nan"]])
def test_command_refuses_values_that_make_no_sense(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audio.mp3", *bad])
    assert end.value.code == 2 and "больше нуля" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a single process there")
@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_ctrl_c_cancels_the_call_and_ends_with_130(
    address: str, service: FakeService, recording: Path, flags: list[str]
) -> None:
    service.may_answer.clear()
    command = [sys.executable, "-m", "api.grpc.client", str(recording), "--address", address, *flags]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    client = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert service.asked.wait(PATIENCE_S)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=PATIENCE_S)
    assert (client.returncode, out, err.decode()) == (130, b"", "⏹ Прервано\n")
    assert service.saw_cancellation.wait(PATIENCE_S)
