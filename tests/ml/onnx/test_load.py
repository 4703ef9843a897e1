"""From MODEL_NAME to an ONNX model: its kind, its files, and one clear line for what cannot work."""

import json
import sys
from pathlib import Path

import pytest

from ml.errors import DeviceUnavailableError, ModelError, ModelFormatError, ModelNotFoundError, PackageMissingError
from ml.onnx.kinds import BY_NAME, kind_of_folder, kind_of_name
from ml.onnx.load import OnnxOptions, load_engine, load_model
from tests.support.onnx_models import LAYOUTS, gigaam_ctc


def message_of(options: OnnxOptions, kind: type[ModelError]) -> str:
    """The message of the error that loading raises: one line, without a path of this machine."""
    with pytest.raises(kind) as caught:
        load_engine(options).close()
    message = str(caught.value)
    assert "\n" not in message and "/tmp" not in message
    return message


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx_asr", None)
    message = message_of(OnnxOptions(device="cpu"), PackageMissingError)
    assert "onnx_asr" in message and "requirements-onnx.txt" in message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kind_of_a_folder_follows_from_its_files(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    assert kind_of_folder(tmp_path).name == layout


def test_every_published_name_has_a_kind() -> None:
    from onnx_asr.resolver import model_repos

    names = [*model_repos, "t-tech/t-one", "alphacep/vosk-model-ru", "alphacep/vosk-model-small-ru"]
    assert [name for name in names if kind_of_name(name) is None] == ["silero"]  # which finds speech, and no words


def test_every_kind_is_one_of_onnx_asr_s() -> None:
    from onnx_asr.loader import create_asr_resolver

    for name in BY_NAME:
        create_asr_resolver(name, Path(), offline=True)


@pytest.mark.parametrize("name", ["no/such", "gigaam", "gigaam-v3-e2e-ctc"])
def test_a_model_that_is_nowhere_is_named_and_nothing_is_downloaded(name: str, tmp_path: Path) -> None:
    options = OnnxOptions(name=name, device="cpu", local_files_only=True)
    assert "MODEL_NAME" in message_of(options, ModelNotFoundError)


def test_a_published_model_is_found_in_the_cache_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--istupakov--gigaam-v3-onnx"
    (repository / "snapshots" / commit).mkdir(parents=True)
    LAYOUTS["gigaam-v3-e2e-ctc"](repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = load_model(OnnxOptions(device="cpu", local_files_only=True))
    assert model.kind.name == "gigaam-v3-e2e-ctc"


@pytest.mark.parametrize("content", [{}, {"README.md": b"hello"}, {"model.bin": b"x", "config.json": b"{}"}])
def test_a_folder_of_another_model_is_refused(tmp_path: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    assert "MODEL_NAME" in message_of(OnnxOptions(name=str(tmp_path), device="cpu"), ModelFormatError)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("damage", ["missing", "cut", "garbage"])
def test_a_folder_with_a_damaged_file_is_refused(tmp_path: Path, layout: str, damage: str) -> None:
    LAYOUTS[layout](tmp_path)
    largest = max((file for file in tmp_path.rglob("*.onnx")), key=lambda file: file.stat().st_size)
    if damage == "missing":
        largest.unlink()
    else:
        largest.write_bytes(largest.read_bytes()[:50] if damage == "cut" else b"garbage" * 100)
    assert "MODEL_NAME" in message_of(OnnxOptions(name=str(tmp_path), device="cpu"), ModelFormatError)


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    LAYOUTS["t-one-ctc"](tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in message_of(OnnxOptions(name=str(tmp_path), device="cpu"), ModelFormatError)


@pytest.mark.parametrize(
    ("there", "dtype"),
    [("", "auto"), ("", "float32"), (".int8", "auto"), (".int8", "int8"), ("_fp16", "float16")],
)
def test_the_number_format_chooses_the_files(tmp_path: Path, there: str, dtype: str) -> None:
    gigaam_ctc(tmp_path, suffix=there)
    load_model(OnnxOptions(name=str(tmp_path), device="cpu", dtype=dtype))


def test_float32_comes_first_where_there_are_several(tmp_path: Path) -> None:
    gigaam_ctc(tmp_path)
    (tmp_path / "v3_e2e_ctc.int8.onnx").write_bytes(b"not loaded")
    load_model(OnnxOptions(name=str(tmp_path), device="cpu"))


def test_a_number_format_that_is_not_there_is_refused(tmp_path: Path) -> None:
    gigaam_ctc(tmp_path)
    options = OnnxOptions(name=str(tmp_path), device="cpu", dtype="int8")
    assert "MODEL_DTYPE" in message_of(options, ModelFormatError)


def test_a_number_format_that_onnx_has_not_is_refused(tmp_path: Path) -> None:
    gigaam_ctc(tmp_path)
    options = OnnxOptions(name=str(tmp_path), device="cpu", dtype="bfloat16")
    assert "bfloat16" in message_of(options, DeviceUnavailableError)


@pytest.mark.parametrize(("layout", "language"), [("gigaam-v3-e2e-ctc", "en"), ("whisper", "de")])
def test_a_language_that_the_model_does_not_know_is_refused(tmp_path: Path, layout: str, language: str) -> None:
    LAYOUTS[layout](tmp_path)
    message = message_of(OnnxOptions(name=str(tmp_path), device="cpu", language=language), ModelFormatError)
    assert language in message and "MODEL_LANGUAGE" in message and "ru" in message


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "tpu:0"])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    gigaam_ctc(tmp_path)
    assert device in message_of(OnnxOptions(name=str(tmp_path), device=device), DeviceUnavailableError)


def test_a_gpu_without_the_package_for_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    gigaam_ctc(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "onnxruntime-gpu" in message_of(OnnxOptions(name=str(tmp_path)), DeviceUnavailableError)
    assert "cuda:1" in message_of(OnnxOptions(name=str(tmp_path), device="cuda:1"), DeviceUnavailableError)


def test_a_machine_without_a_gpu_uses_its_cpu_and_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    gigaam_ctc(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    load_model(OnnxOptions(name=str(tmp_path)))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_config_names_the_kind_before_the_files_do(tmp_path: Path) -> None:
    LAYOUTS["gigaam-v3-e2e-ctc"](tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nemo-conformer-ctc"}))
    assert kind_of_folder(tmp_path).name == "nemo-conformer-ctc"
