"""Takes Whisper from MODEL_NAME to a warm engine."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml.cpu import usable_cpus
from ml.engine.engine import Engine
from ml.engine.micro_batch import MicroBatchScheduler
from ml.errors import DeviceUnavailableError, ModelError, ModelFormatError, PackageMissingError, RecognitionError
from ml.hub import locate

if TYPE_CHECKING:
    from ml.whisper.model import WhisperModel

DEFAULT_NAME = "Systran/faster-whisper-small"
ADVICE = (
    f"Укажите папку с моделью Whisper в формате CTranslate2 или имя на Hugging Face, например {DEFAULT_NAME}; "
    "Whisper base без Hugging Face даёт python -m ml.whisper.weights."
)
REQUIRED_FILES = ("model.bin", "config.json", "tokenizer.json")  # without the last, the library would download one
WANTED_FILES = (*REQUIRED_FILES, "preprocessor_config.json", "vocabulary.*")
AUTO = "auto"  # of the dtype and the language
COMPUTE_TYPES = {"cpu": "int8", "cuda": "float16"}  # for the dtype AUTO
# Processor time of Whisper base on two workers, for 100 s of audio in chunks of 30 s: one by one 7.9 s, in fours 6.2 s,
# in eights 5.2 s. On a large model such a batch would take minutes.
CPU_BATCH = 8
CPU_BATCH_BYTES = 4e9  # chunks times the size of the model: eight of Whisper small, two of medium, one of large
CPU_SPARE_WORKERS = 1  # for new recordings beside a long one; shares the weights, and the processors while it works
CPU_WORKERS = 4  # of one thread each, where there are as many; the other threads are shared among them
NEEDS_CUDA = (
    "нужны драйвер и библиотеки CUDA 12 (pip install nvidia-cublas-cu12 nvidia-cudnn-cu12) или MODEL_DEVICE=cpu"
)

_log = logging.getLogger("WhisperModel")


@dataclass(frozen=True)
class WhisperOptions:
    """Which model to run, where and how."""

    name: str = DEFAULT_NAME  # a folder or a hub name
    device: str = "cuda"
    dtype: str = AUTO
    cpu_threads: int | None = None  # None: one for each processor
    batch_size: int = 32  # most chunks in one batch; at most CPU_BATCH on a CPU
    language: str = "ru"  # of recordings that name none; AUTO detects it in each chunk
    revision: str | None = None
    local_files_only: bool = False


def load_engine(options: WhisperOptions) -> Engine:
    """Find the model, load it and run a warm-up inference.

    Raises:
        ModelError: a package, the model or the device is missing, or the model is damaged or another one.
    """
    model = load_model(options)
    engine = Engine(MicroBatchScheduler(model), capabilities=model.capabilities)
    try:
        engine.warm_up()
    except RecognitionError as error:
        engine.close()
        raise _explain(error.__cause__ or error) from error
    except BaseException:  # Ctrl+C as well: the engine's thread would keep the program from ending
        engine.close()
        raise
    _log.info("🚀 Модель готова: %s, батч %d × %d", Path(options.name).name, model.batch_size, model.workers)
    return engine


def load_model(options: WhisperOptions) -> "WhisperModel":
    """Find the model and load it; see `load_engine`."""
    try:
        import ctranslate2
        from faster_whisper import WhisperModel as FasterWhisper

        from ml.whisper.model import WhisperModel
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            f"Реализации whisper нужен пакет {error.name}: pip install -r requirements-whisper.txt"
        ) from error
    folder, _ = locate(options.name, options.revision, options.local_files_only, WANTED_FILES, ADVICE)
    _check_files(folder)
    device, index = _resolve_device(options.device, ctranslate2.get_cuda_device_count())
    compute_type = _resolve_dtype(options.dtype, device, ctranslate2.get_supported_compute_types(device, index))
    threads = options.cpu_threads or usable_cpus()
    workers = min(threads, CPU_WORKERS) if device == "cpu" else 1
    spare = CPU_SPARE_WORKERS if device == "cpu" else 0
    _log.info("⏳ Загрузка модели %s (%s, %s)", Path(options.name).name, device, compute_type)
    try:
        network = FasterWhisper(
            str(folder), device, index, compute_type, threads // workers, workers + spare, local_files_only=True
        )
    except Exception as error:  # RuntimeError of CTranslate2, a bare Exception of tokenizers
        raise _explain(error) from error
    _check_language(options.language, network.supported_languages)
    batch_size = min(options.batch_size, _cpu_batch(folder)) if device == "cpu" else options.batch_size
    return WhisperModel(network, options.language, batch_size, spare)


def _cpu_batch(folder: Path) -> int:
    """Most chunks in one batch on a CPU: the watchdog and new recordings wait for a batch of a large model too long."""
    return max(1, min(CPU_BATCH, int(CPU_BATCH_BYTES / (folder / "model.bin").stat().st_size)))


def _check_files(folder: Path) -> None:
    """Raise ModelFormatError for a folder that is not of a Whisper model in CTranslate2's format."""
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise ModelFormatError(
            f"В папке модели (MODEL_NAME) нет файла {missing[0]}: это не Whisper в формате CTranslate2. {ADVICE}"
        )


def _resolve_device(name: str, gpus: int) -> tuple[str, int]:
    """The device and its index; a machine without a GPU gets its CPU for "cuda", with a warning in the log."""
    kind, _, index = name.partition(":")
    if kind not in COMPUTE_TYPES or (index and not index.isdecimal()):
        raise DeviceUnavailableError(f"Неизвестное устройство «{name}»: допустимы cpu, cuda, cuda:N.")
    if kind == "cuda" and not gpus:
        _log.warning("Видеокарта с CUDA не найдена: модель будет работать на процессоре, это намного медленнее.")
        return "cpu", 0
    if kind == "cuda" and int(index or 0) >= gpus:
        raise DeviceUnavailableError(f"Устройства «{name}» нет: видеокарт с CUDA на этой машине {gpus}.")
    return kind, int(index or 0)


def _resolve_dtype(name: str, device: str, supported: Collection[str]) -> str:
    """CTranslate2's name of the number format `name` (MODEL_DTYPE). Raises DeviceUnavailableError."""
    compute_type = COMPUTE_TYPES[device] if name == AUTO else name
    if compute_type not in supported:
        known = [name for name in ("int8", "float16", "bfloat16", "float32") if name in supported]
        raise DeviceUnavailableError(
            f"Формат чисел «{name}» (MODEL_DTYPE) здесь не поддерживается: допустимы auto, {', '.join(known)}."
        )
    return compute_type


def _check_language(language: str, known: Collection[str]) -> None:
    """Raise ModelFormatError for a language that the model does not know."""
    if language != AUTO and language not in known:
        example = "en" if "ru" not in known else "ru"
        raise ModelFormatError(
            f"Модель не знает языка «{language}» (MODEL_LANGUAGE): укажите код, например {example}, или auto."
        )


def _explain(error: BaseException) -> ModelError:
    """What is wrong where a model does not load or does not run: the device's libraries, or the model itself."""
    if any(word in str(error) for word in ("CUDA", "cuBLAS", "libcu", "cuDNN", "cudnn")):
        return DeviceUnavailableError(f"Видеокарта не работает с CTranslate2: {NEEDS_CUDA}.")
    return ModelFormatError(
        f"Модель, заданная в MODEL_NAME, повреждена или это не Whisper в формате CTranslate2. {ADVICE}"
    )
