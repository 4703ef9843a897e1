"""The decoder program is found and tried before it is needed, and its absence is explained."""

import sys
from pathlib import Path

import imageio_ffmpeg
import pytest

from ml.audio.ffmpeg import find_ffmpeg
from ml.errors import DecoderUnavailableError

needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="stands a shell script in for ffmpeg")


def program(folder: Path, text: str, name: str = "ffmpeg") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def complaint(configured: str | None) -> str:
    with pytest.raises(DecoderUnavailableError) as caught:
        find_ffmpeg(configured)
    message = str(caught.value)
    assert "pip install imageio-ffmpeg" in message and "FFMPEG_BINARY" in message
    assert "/" not in message and "\n" not in message
    return message


def test_packaged_program_is_the_default() -> None:
    assert find_ffmpeg(None) == find_ffmpeg("") == Path(imageio_ffmpeg.get_ffmpeg_exe())


@needs_shell
def test_configured_program_wins(tmp_path: Path) -> None:
    own = program(tmp_path, f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"')
    assert find_ffmpeg(own) == Path(own)


@needs_shell
def test_configured_name_is_looked_up_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = program(tmp_path, f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"', name="my-ffmpeg")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg("my-ffmpeg") == Path(own)


def test_configured_program_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "нет" in complaint(str(tmp_path / "ffmpeg"))


@needs_shell
def test_configured_program_that_fails_is_refused(tmp_path: Path) -> None:
    assert "не запускается" in complaint(program(tmp_path, "exit 1"))


@needs_shell
def test_program_without_the_fd_protocol_is_refused(tmp_path: Path) -> None:
    old = "printf 'Supported file protocols:\\nInput:\\n  file\\n  pipe\\nOutput:\\n  fd\\n'"
    assert "слишком старый" in complaint(program(tmp_path, old))


@needs_shell
def test_program_that_hangs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ml.audio.ffmpeg.PROBE_TIMEOUT_S", 0.3)
    assert "не запускается" in complaint(program(tmp_path, "exec sleep 30"))


@pytest.mark.parametrize("error", [RuntimeError("no binary"), ImportError("no package")])
def test_machine_without_any_program_is_told_how_to_get_one(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        raise error

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", nothing)
    assert "Нет ffmpeg" in complaint(None)
