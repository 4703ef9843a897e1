"""Transcription without a server: the command line, its exit codes, and its independence of the service."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml import transcribe as defaults
from ml.audio.decoder import AudioDecoder
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.pipeline.pipeline import Pipeline
from ml.transcribe import main, transcribe
from ml.transcript import Completion
from resources.config import PROJECT_ROOT, Settings
from tests.support.audio import voice_wav
from tests.support.whisper import FREE_TEXT, said, whisper_base


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "recording.wav"
    path.write_bytes(voice_wav(5))
    return path


def count_chunks(
    chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
) -> Iterator[Completion]:
    """Answer each chunk with its number."""
    for number, _chunk in enumerate(chunks, start=1):
        yield Completion(str(number))


def test_file_is_transcribed_with_its_duration(recording: Path) -> None:
    pipeline = Pipeline(AudioDecoder(find_ffmpeg(None), 60.0, 60.0), 2.0, count_chunks)
    transcript = transcribe(recording, pipeline)
    numbers = [int(number) for number in transcript.text.split()]  # overlaps are counted too, and are not in the text
    assert len(numbers) >= 3 and numbers == sorted(set(numbers)) and numbers[0] == 1
    assert transcript.audio_duration_s == pytest.approx(5.0)


def test_missing_file_costs_no_model_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere.mp3"), "--model", str(tmp_path / "no-model")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "nowhere.mp3" in printed.err and printed.err.count("\n") == 1


def test_missing_model_is_one_clear_line_that_names_the_bundled_one(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording), "--model", str(tmp_path / "no-model")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("❌") and "no-model" in message and "ml/checkpoints/borealis-tiny-ru" in message


def test_default_model_device_and_cache_are_those_of_the_service() -> None:
    settings = Settings(_env_file=None)
    assert settings.model_name == defaults.DEFAULT_MODELS["borealis"]
    assert settings.model_device == defaults.DEFAULT_DEVICE
    assert (settings.model_cache_dir, settings.model_batch_size) == (defaults.CACHE_DIR, defaults.DEFAULT_BATCH_SIZE)
    assert settings.model_chunk_duration == defaults.DEFAULT_CHUNK_DURATION_S


@pytest.mark.parametrize(
    "way", [["-m", "ml.transcribe"], ["ml/transcribe.py"], ["-m", "ml.evaluate"], ["ml/evaluate.py"]]
)
def test_tool_runs_as_a_module_and_as_a_file(way: list[str]) -> None:
    result = subprocess.run([sys.executable, *way, "--help"], cwd=PROJECT_ROOT, capture_output=True, check=False)
    assert result.returncode == 0 and b"--model" in result.stdout


def test_tools_import_nothing_of_the_service() -> None:
    probe = (
        "import sys, ml.evaluate, ml.transcribe\n"
        "import ml.borealis.load, ml.audio.decoder\n"
        "print([name for name in ('api', 'services', 'resources', 'generated', 'grpc') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_each_implementation_has_its_own_default_model() -> None:
    from ml.onnx import load as onnx
    from ml.whisper import load as whisper

    assert defaults.DEFAULT_MODELS["whisper"] == whisper.DEFAULT_NAME
    assert defaults.DEFAULT_MODELS["onnx"] == onnx.DEFAULT_NAME


@pytest.mark.speech
def test_free_text_is_transcribed_by_whisper(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--implementation", "whisper", "--model", str(whisper_base()), "--device", "cpu"]
    assert main([str(FREE_TEXT), *flags]) == 0
    assert capsys.readouterr().out.strip() == said()
