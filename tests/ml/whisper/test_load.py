"""From MODEL_NAME to an engine: what cannot work is one clear line."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from ml.errors import DeviceUnavailableError, ModelError, ModelFormatError, ModelNotFoundError, PackageMissingError
from ml.whisper.load import WhisperOptions, load_engine, load_model
from resources.config import PROJECT_ROOT
from tests.support.whisper import whisper_base

BOREALIS = PROJECT_ROOT / "ml" / "checkpoints" / "borealis-tiny-ru"


def message_of(options: WhisperOptions, kind: type[ModelError]) -> str:
    """The message of the error that loading raises: one line, without a path of this machine."""
    with pytest.raises(kind) as caught:
        load_engine(options).close()
    message = str(caught.value)
    assert "\n" not in message and "/tmp" not in message and str(PROJECT_ROOT) not in message
    return message


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    message = message_of(WhisperOptions(), PackageMissingError)
    assert "ctranslate2" in message and "requirements-whisper.txt" in message


@pytest.mark.speech
@pytest.mark.parametrize("name", ["no/such/folder", "whisper", "someone/nothing"])
def test_a_model_that_is_nowhere_is_named_with_what_to_give_instead(name: str) -> None:
    message = message_of(WhisperOptions(name=name, local_files_only=True), ModelNotFoundError)
    assert name in message and "MODEL_NAME" in message and "ml.whisper.weights" in message


@pytest.mark.speech
def test_a_folder_of_another_model_is_refused() -> None:
    message = message_of(WhisperOptions(name=str(BOREALIS), device="cpu"), ModelFormatError)
    assert "model.bin" in message and "CTranslate2" in message


@pytest.mark.speech
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("model.bin", "config.json", "tokenizer.json") for damage in ("cut", "garbage")),
        *((name, "missing") for name in ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt")),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "whisper"
    shutil.copytree(whisper_base(), folder)
    file = folder / name
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.write_bytes(b"\x00garbage" * 1000)
    assert "MODEL_NAME" in message_of(WhisperOptions(name=str(folder), device="cpu"), ModelFormatError)


@pytest.mark.speech
def test_an_unknown_language_is_refused() -> None:
    options = WhisperOptions(name=str(whisper_base()), device="cpu", language="xx")
    message = message_of(options, ModelFormatError)
    assert "xx" in message and "MODEL_LANGUAGE" in message


@pytest.mark.speech
@pytest.mark.parametrize("device", ["gpu", "cuda:x", "tpu:0"])
def test_an_unknown_device_is_refused(device: str) -> None:
    assert device in message_of(WhisperOptions(name=str(whisper_base()), device=device), DeviceUnavailableError)


@pytest.mark.speech
def test_a_number_format_that_the_device_has_not_is_refused() -> None:
    options = WhisperOptions(name=str(whisper_base()), device="cpu", dtype="float16")
    message = message_of(options, DeviceUnavailableError)
    assert "float16" in message and "int8" in message


@pytest.mark.speech
def test_a_machine_without_a_gpu_uses_its_cpu_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    import ctranslate2

    if ctranslate2.get_cuda_device_count():
        pytest.skip("there is a GPU")
    load_model(WhisperOptions(name=str(whisper_base()), device="cuda", cpu_threads=1))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.speech
@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (2, 2), (16, 4)])
def test_workers_follow_the_threads(threads: int, workers: int) -> None:
    model = load_model(WhisperOptions(name=str(whisper_base()), device="cpu", cpu_threads=threads))
    assert model.workers == workers
    assert 1 <= model.batch_size <= 32
