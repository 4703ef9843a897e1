"""From MODEL_NAME to a checked folder in the stock Voxtral layout."""

import hashlib
import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from ml.borealis.convert import CHECKSUM_FILE, COPIED_FILES, WEIGHTS_FILE, convert, has_right_checksum
from ml.borealis.generation import GENERATION_FILE
from ml.borealis.prompt import TOKENIZER_FILES
from ml.errors import ModelFormatError
from ml.hub import locate

BUNDLED_MODEL = "ml/checkpoints/borealis-tiny-ru"
CONVERTER_VERSION = 2  # raise it when conversions of the same source would come out different
SOURCE_FILES = ("config.json", GENERATION_FILE, WEIGHTS_FILE, *COPIED_FILES)
WANTED_FILES = (  # data only: the repository's Python files are never fetched
    "config.json",
    GENERATION_FILE,
    "preprocessor_config.json",
    "pytorch_model.bin",
    "*.safetensors",
    "*.safetensors.index.json",
    *TOKENIZER_FILES,
)
ADVICE = f"Укажите папку с моделью, имя на Hugging Face или встроенную модель {BUNDLED_MODEL}."

logger = logging.getLogger("BorealisModel")


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder, ready for BorealisModel.load."""

    path: Path  # stock Voxtral layout: config.json, safetensors, tokenizer
    name: str  # as given: a folder or a hub name
    revision: str | None  # the hub's commit, or what was asked for; None for a folder


def prepare_checkpoint(
    model_name: str, cache_dir: Path, revision: str | None = None, local_files_only: bool = False
) -> Checkpoint:
    """Find `model_name` (a folder, or a hub name) and convert it, once, if it is in the upstream layout.

    Conversions live under `cache_dir` and are checked against their SHA-256 each time; several processes may do
    this at once. Raises ModelNotFoundError, and ModelFormatError for files that are damaged or of another model.
    """
    source, revision = locate(model_name, revision, local_files_only, WANTED_FILES, ADVICE)
    model_type = _read_config(source).get("model_type")
    if model_type == "voxtral":
        _check_given(source)
        return Checkpoint(source, model_name, revision)
    if model_type == "borealis":
        return Checkpoint(_converted(source, model_name, revision, cache_dir), model_name, revision)
    raise ModelFormatError(f"Модель, заданная в MODEL_NAME, — не Borealis: её тип «{model_type}».")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFormatError("В папке модели (MODEL_NAME) нет config.json или он повреждён.") from error
    if not isinstance(config, dict):
        raise ModelFormatError("В папке модели (MODEL_NAME) повреждён config.json.")
    return config


def _check_given(folder: Path) -> None:
    """A folder converted elsewhere is checked if it carries a checksum; safetensors checks its own structure."""
    if (folder / CHECKSUM_FILE).is_file() and not has_right_checksum(folder):
        raise ModelFormatError("Файл весов модели повреждён: его контрольная сумма SHA-256 не сходится.")


def _converted(source: Path, model_name: str, revision: str | None, cache_dir: Path) -> Path:
    """The conversion of `source` in `cache_dir`, made anew if there is none or its weights were damaged."""
    target = cache_dir / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', _label(model_name))}-{_identity(source, revision)}"
    if has_right_checksum(target):
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if not has_right_checksum(target):  # another process may have made it meanwhile
                logger.info("Преобразование модели %s в формат safetensors (один раз)…", model_name)
                convert(source, target)
                logger.info("Модель преобразована: %s", target)
    except OSError as error:
        raise ModelFormatError(
            f"Преобразованную модель не удалось записать в папку MODEL_CACHE_DIR: {error.strerror or error}."
        ) from error
    return target


def _label(model_name: str) -> str:
    """A short readable name for a conversion's folder."""
    return model_name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1] or "model"


def _identity(source: Path, revision: str | None) -> str:
    """A key that changes whenever the source may have: its place, revision, and its files' sizes and times."""
    files = [
        (name, status.st_size, status.st_mtime_ns)
        for name in SOURCE_FILES
        if (source / name).is_file() and (status := (source / name).stat())
    ]
    parts = [CONVERTER_VERSION, str(source.resolve()), revision, files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
