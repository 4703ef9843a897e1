"""The command line of the client for one file, against a real server around a fake recogniser."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from api.grpc.client.cli import main
from tests.api.client.test_client import WithoutUpdates
from tests.support.client_server import ROOT, UNREACHABLE, ChecksumService, expected_text, listening, write_wav
from tests.support.waiting import HANG_LIMIT_S


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
def test_command_ends_with_1_and_the_code_when_the_content_is_rejected(
    address: str, tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    noise = tmp_path / "noise.mp3"
    noise.write_bytes(b"not audio at all" * 100)
    assert main([str(noise), "--address", address, *flags]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "[UNDECODABLE_AUDIO]" in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_command_ends_with_2_and_one_line_without_a_server(
    recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--address", UNREACHABLE, "--attempts", "1", *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert UNREACHABLE in printed.err and "python start.py" in printed.err and "UNAVAILABLE" in printed.err


def test_command_names_the_timeout(
    address: str, service: ChecksumService, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.may_answer.clear()
    assert main([str(recording), "--address", address, "--timeout", "0.5"]) == 2
    assert "--timeout" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--stream"]])
@pytest.mark.parametrize(("name", "complaint"), [("nowhere.mp3", "Файл не найден"), ("запись.wav/a.mp3", "Не удалось")])
def test_command_ends_with_2_and_one_line_when_there_is_no_such_file(
    recording: Path, name: str, complaint: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording.parent / name), "--address", UNREACHABLE, *flags]) == 2
    printed = capsys.readouterr()
    assert complaint in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    "bad", [["--chunk-bytes", "0"], ["--timeout", "-1"], ["--timeout", "nan"], ["--jobs", "0"], ["--attempts", "x"]]
)
def test_command_rejects_invalid_values(bad: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["audio.mp3", *bad])
    assert end.value.code == 2 and "больше нуля" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a single process there")
@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_ctrl_c_cancels_the_call_and_ends_with_130(
    address: str, service: ChecksumService, recording: Path, flags: list[str]
) -> None:
    service.may_answer.clear()
    command = [sys.executable, "-m", "api.grpc.client", str(recording), "--address", address, *flags]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    client = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert service.asked.wait(HANG_LIMIT_S)
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=HANG_LIMIT_S)
    assert (client.returncode, out, err.decode()) == (130, b"", "⏹ Прервано\n")
    assert service.saw_cancellation.wait(HANG_LIMIT_S)


def test_raw_pcm_needs_its_format_and_rate(address: str, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = recording.with_suffix(".dat")
    raw.write_bytes(recording.read_bytes()[44:])
    assert main([str(raw), "--address", address]) == 1
    assert "[UNSUPPORTED_FORMAT]" in capsys.readouterr().err
    assert main([str(raw), "--address", address, "--audio-format", "pcm", "--sample-rate", "8000"]) == 0
    assert "Длительность аудио: 6.00 сек" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_warnings_of_the_server_are_printed(
    address: str, recording: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    recording.write_bytes(recording.read_bytes()[:-32_000])
    assert main([str(recording), "--address", address, *flags]) == 0
    assert capsys.readouterr().err.count("⚠️") == 1


def test_stream_prints_the_same_from_a_server_without_the_incremental_call(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = WithoutUpdates()
    with listening(service) as server:
        server.start()
        assert main([str(recording), "--address", f"127.0.0.1:{server.port}", "--stream"]) == 0
    assert service.calls == 1 and capsys.readouterr().out == expected_text(recording) + "\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_terminal_shows_a_bar_for_the_upload_and_one_for_the_seconds_done(tmp_path: Path) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=8)
    with listening(ChecksumService(), model_chunk_duration=3) as server:
        server.start()
        out, shown = _run_on_terminal([str(recording), "--address", f"127.0.0.1:{server.port}", "--stream"])
    assert len(out.split()) > 1  # several segments
    assert shown.rfind("Отправлено") < shown.rfind("Распознано")  # what stays on the screen, from the top
    assert re.search(r"Отправлено, идёт распознавание: 100%\|.*256kБ из 256kБ", shown)
    done_s = [int(done) for done in re.findall(r"Распознано: .*?(\d+) из \d+ сек", shown)]
    assert done_s == sorted(done_s) and done_s[-1] == 8 and len(set(done_s)) > 2


def _run_on_terminal(flags: list[str]) -> tuple[str, str]:
    """Run the command with a terminal as stderr; return its stdout and what the terminal showed."""
    import termios  # not everywhere

    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (25, 120))  # rows, columns
    command = [sys.executable, "-m", "api.grpc.client", *flags]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        try:
            while piece := os.read(ours, 4096):
                shown.extend(piece)
        except OSError:
            pass  # how the end of a terminal shows on Linux

    reader = threading.Thread(target=read)
    reader.start()
    out, _ = process.communicate(timeout=HANG_LIMIT_S)
    reader.join()
    os.close(ours)
    assert process.returncode == 0
    return out.decode(), shown.decode()
