"""Several files and folders at once: what is sent, where the outputs go, and the exit code."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.grpc.client.cli import main
from api.grpc.client.files import RECORDING_ENDINGS
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from services.transcription.request import SUPPORTED_FORMATS
from tests.support.client_server import ROOT, UNREACHABLE, ChecksumService, expected_text, listening, write_wav
from tests.support.waiting import HANG_LIMIT_S, wait_until, wait_until_steady

Printed = pytest.CaptureFixture[str]


class Counting(ChecksumService):
    """Counts recordings: those in recognition, the most at a time, and those answered."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self.in_flight = 0
        self.most = 0
        self.answered = 0

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        yield from super().recognise(chunks, cancelled, options)
        with self._lock:
            self.in_flight -= 1
            self.answered += 1


@pytest.fixture
def service() -> Counting:
    return Counting()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three recordings, two of them deeper, one damaged, and three files that must be left out."""
    folder = tmp_path / "записи"
    (folder / "глубже").mkdir(parents=True)
    write_wav(folder / "a.wav", seconds=1)
    write_wav(folder / "глубже" / "b.WAV", seconds=2)
    write_wav(folder / "глубже" / "c.wav", seconds=3)
    (folder / "broken.mp3").write_bytes(b"not audio at all" * 100)
    (folder / "notes.txt").write_text("не запись")
    (folder / "глубже" / "._c.wav").write_bytes(b"what some systems leave next to a file")
    (folder / ".корзина").mkdir()
    write_wav(folder / ".корзина" / "d.wav", seconds=1)
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def texts_of(folder: Path) -> dict[str, str]:
    names = {"a.wav": "a.txt", "глубже/b.WAV": "глубже/b.txt", "глубже/c.wav": "глубже/c.txt"}
    return {output: expected_text(folder / name) + "\n" for name, output in names.items()}


@pytest.mark.parametrize("flags", [[], ["--stream"]])
def test_folder_is_transcribed_into_a_folder_of_the_same_shape(
    address: str, folder: Path, tmp_path: Path, flags: list[str], capsys: Printed
) -> None:
    output = tmp_path / "out"
    assert main([str(folder), "-o", str(output), "--address", address, *flags]) == 1  # for the broken one
    assert tree(output) == texts_of(folder)
    printed = capsys.readouterr()
    skipped, *lines, summary = printed.err.splitlines()
    assert skipped.startswith("⏭") and skipped.endswith(str(folder / "notes.txt"))
    marks = sorted((line[0], Path(line[2:].split(": ")[0].split(" → ")[0]).name) for line in lines)
    assert marks == [("✅", "a.wav"), ("✅", "b.WAV"), ("✅", "c.wav"), ("❌", "broken.mp3")]
    assert summary == "Файлов: готово 3, отказано 1" and printed.out == ""
    assert any("[UNDECODABLE_AUDIO]" in line for line in lines)


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_files_are_in_flight_as_the_jobs_flag_says(
    address: str, service: Counting, tmp_path: Path, jobs: int
) -> None:
    recordings = [str(write_wav(tmp_path / f"{number}.wav", seconds=1)) for number in range(6)]

    def answer_once_no_more_come() -> None:
        wait_until(lambda: service.in_flight >= jobs)
        wait_until_steady(lambda: service.in_flight, steady_s=0.5)
        service.may_answer.set()

    service.may_answer.clear()
    answering = threading.Thread(target=answer_once_no_more_come)
    answering.start()
    assert main([*recordings, "--jobs", str(jobs), "--address", address]) == 0
    answering.join()
    assert service.most == jobs and service.answered == 6


def test_transcripts_on_stdout_are_in_the_order_of_the_files(address: str, tmp_path: Path, capsys: Printed) -> None:
    recordings = [write_wav(tmp_path / f"{seconds}.wav", seconds) for seconds in (20, 1, 2, 3)]
    assert main([*map(str, recordings), str(recordings[1]), "--jobs", "4", "--address", address]) == 0
    assert capsys.readouterr().out.splitlines() == [expected_text(recording) for recording in recordings]


def test_second_run_sends_only_what_is_not_done(
    address: str, service: Counting, folder: Path, tmp_path: Path, capsys: Printed
) -> None:
    command = [str(folder), "-o", str(tmp_path / "out"), "--address", address]
    main(command)
    assert service.answered == 3
    (tmp_path / "out" / "a.txt").unlink()  # as if the first run had been killed before it
    changed = folder / "глубже" / "b.WAV"
    write_wav(changed, seconds=4)
    os.utime(changed, (time.time() + 10, time.time() + 10))
    capsys.readouterr()
    assert main(command) == 1
    assert service.answered == 5 and tree(tmp_path / "out") == texts_of(folder)
    assert "готово 2, отказано 1, пропущено 1" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 1
    assert service.answered == 8


def test_single_file_goes_into_the_named_file_or_folder(address: str, tmp_path: Path, capsys: Printed) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=1)
    command = [str(recording), "--address", address, "--format", "vtt", "-o"]
    for output, written in (("x.vtt", "x.vtt"), ("new/", "new/a.vtt"), ("x/y/z", "x/y/z"), ("new", "new/a.vtt")):
        assert main([*command, f"{tmp_path}/{output}"]) == 0
        assert (tmp_path / written).read_text(encoding="utf-8").startswith("WEBVTT\n")
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("⏭") == 1  # new/a.vtt was there the second time


def test_recordings_that_differ_only_in_their_endings_keep_them(address: str, tmp_path: Path) -> None:
    for name in ("a.wav", "A.aac", "b.wav"):
        write_wav(tmp_path / name, seconds=1)
    assert main([str(tmp_path), "-o", str(tmp_path / "out"), "--address", address]) == 0
    assert sorted(tree(tmp_path / "out")) == ["A.aac.txt", "a.wav.txt", "b.txt"]


def test_command_rejects_outputs_that_would_overwrite_something(tmp_path: Path, capsys: Printed) -> None:
    first, second = (write_wav(tmp_path / name, seconds=1) for name in ("a.wav", "b.wav"))
    (tmp_path / "deeper").mkdir()
    twin = write_wav(tmp_path / "deeper" / "a.wav", seconds=2)
    before = first.read_bytes()
    for arguments, complaint in (
        ([first, "-o", first], "затёр бы запись"),
        ([first, second, "-o", first], "укажите папку"),
        ([first, twin, "-o", tmp_path / "out"], "в один файл"),
        ([first, second, "--format", "srt"], "не разделить"),
        ([tmp_path / "deeper", "--format", "json", "-o", second], "укажите папку"),
    ):
        assert main([*map(str, arguments), "--address", UNREACHABLE]) == 2
        printed = capsys.readouterr()
        assert complaint in printed.err and printed.err.count("\n") == 1
    assert first.read_bytes() == before and not (tmp_path / "out").exists()


def test_one_line_names_the_files_that_are_not_sent_but_neither_outputs_nor_hidden_ones(
    address: str, tmp_path: Path, capsys: Printed
) -> None:
    write_wav(tmp_path / "a.wav", seconds=1)
    for name in (".hidden.doc", *(f"{number:02}.doc" for number in range(12))):
        (tmp_path / name).touch()
    for _ in range(2):  # the second time the output of the first is there
        assert main([str(tmp_path), "-o", str(tmp_path), "--address", address]) == 0
        (line,) = (line for line in capsys.readouterr().err.splitlines() if ".doc" in line)
        assert f": {tmp_path / '00.doc'}, " in line
        assert "09.doc" in line and "10.doc" not in line and line.endswith("и ещё 2")


def test_file_that_is_named_beside_its_folder_is_sent_whatever_its_ending(
    address: str, tmp_path: Path, capsys: Printed
) -> None:
    named = tmp_path / "a.dat"
    write_wav(tmp_path / "b.wav", seconds=1)
    write_wav(named, seconds=1)
    flags = ["--audio-format", "wav", "--address", address]
    assert main([str(tmp_path), str(named), *flags]) == 0
    assert "окончание" not in capsys.readouterr().err
    assert main([str(tmp_path), *flags]) == 0
    assert capsys.readouterr().err.splitlines()[0].endswith(str(named))


def test_folder_stands_for_every_format_that_the_server_names() -> None:
    assert set(RECORDING_ENDINGS) == {f".{name}" for name in SUPPORTED_FORMATS}


def test_folder_without_recordings_is_an_error(tmp_path: Path, capsys: Printed) -> None:
    assert main([str(tmp_path), "--address", UNREACHABLE]) == 2
    assert "нет записей" in capsys.readouterr().err


def test_failed_call_outweighs_a_rejection_and_stops_no_other_file(address: str, folder: Path, capsys: Printed) -> None:
    missing = folder / "nowhere.wav"
    command = [str(missing), str(folder / "broken.mp3"), str(folder / "a.wav"), "--address", address]
    assert main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == expected_text(folder / "a.wav") + "\n"
    assert "Файлов: готово 1, отказано 1, не удалось 1" in printed.err


def test_output_that_cannot_be_written_is_a_failure_of_its_own(address: str, tmp_path: Path, capsys: Printed) -> None:
    recording = write_wav(tmp_path / "a.wav", seconds=1)
    (tmp_path / "file").touch()
    assert main([str(recording), "-o", str(tmp_path / "file" / "a.txt"), "--address", address]) == 2
    assert "Не удалось записать" in capsys.readouterr().err


def test_server_that_rejects_the_token_is_asked_once_for_all_files(tmp_path: Path, capsys: Printed) -> None:
    recordings = [str(write_wav(tmp_path / f"{number}.wav", seconds=1)) for number in range(5)]
    with listening(Counting(), auth_token_hashes=("0" * 64,)) as server:
        server.start()
        assert main([*recordings, "--jobs", "1", "--address", f"127.0.0.1:{server.port}"]) == 2
    line, summary = capsys.readouterr().err.splitlines()
    assert "[UNAUTHENTICATED]" in line and summary == "Файлов: не удалось 1, не отправлено 4"


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe breaks otherwise there")
def test_closed_stdout_ends_the_command_with_one_line(address: str, tmp_path: Path) -> None:
    recordings = [str(write_wav(tmp_path / f"{number}.wav", seconds=1)) for number in range(3)]
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "api.grpc.client", *recordings, "--jobs", "1", "--address", address]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    client = subprocess.run(command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (client.returncode, client.stderr.decode()) == (2, "❌ Вывод больше никто не читает\n")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to a single process there")
def test_ctrl_c_cancels_all_calls_and_leaves_only_complete_outputs(
    address: str, service: Counting, tmp_path: Path
) -> None:
    for number in range(8):
        write_wav(tmp_path / f"{number}.wav", seconds=1)
    service.may_answer.clear()
    command = [sys.executable, "-m", "api.grpc.client", str(tmp_path), "--jobs", "2", "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    client = subprocess.Popen([*command, "--address", address], cwd=ROOT, env=environment, stderr=subprocess.PIPE)
    assert service.asked.wait(HANG_LIMIT_S)
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=HANG_LIMIT_S)
    assert (client.returncode, err.decode()) == (130, "⏹ Прервано\n")
    assert service.saw_cancellation.wait(HANG_LIMIT_S)
    assert not (tmp_path / "out").exists()
