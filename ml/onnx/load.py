"""Takes an ONNX model from MODEL_NAME to a warm engine."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.cpu import usable_cpus
from ml.engine.engine import Engine
from ml.engine.micro_batch import MicroBatchScheduler
from ml.errors import DeviceUnavailableError, ModelError, ModelFormatError, PackageMissingError, RecognitionError
from ml.hub import locate
from ml.onnx.kinds import Kind, kind_of_folder, kind_of_name

if TYPE_CHECKING:
    from ml.onnx.model import OnnxModel

DEFAULT_NAME = "gigaam-v3-e2e-ctc"
ADVICE = (
    "Укажите папку с моделью, имя из списка onnx-asr, например gigaam-v3-e2e-ctc, t-tech/t-one, "
    "alphacep/vosk-model-ru, nemo-parakeet-tdt-0.6b-v3, или имя на Hugging Face."
)
AUTO = "auto"  # of the dtype and the language
QUANTIZATIONS = {
    "float32": None,
    "int8": "int8",
    "float16": "fp16",
}  # endings of the files' names; AUTO: the first found
CPU_BATCH = 4  # chunks of one batch wait for each other, and a larger one gains little on a CPU
CPU_SPARE_WORKERS = 1  # for new recordings beside a long one; shares the processors while it works
CPU_WORKERS = 4  # of one thread each, where there are as many; the other threads are shared among them
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

_log = logging.getLogger("OnnxModel")


@dataclass(frozen=True)
class OnnxOptions:
    """Which model to run, where and how."""

    name: str = DEFAULT_NAME  # a folder, a name of onnx-asr's or a hub name
    device: str = "cuda"
    dtype: str = AUTO
    cpu_threads: int | None = None  # None: one for each processor
    batch_size: int = 32  # most chunks in one batch; at most CPU_BATCH on a CPU
    language: str = "ru"  # of recordings that name none
    revision: str | None = None
    local_files_only: bool = False


def load_engine(options: OnnxOptions) -> Engine:
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
        raise _damaged() from error
    except BaseException:  # Ctrl+C as well: the engine's thread would keep the program from ending
        engine.close()
        raise
    _log.info("🚀 Модель готова: %s, батч %d × %d", model.kind.name, model.batch_size, model.workers)
    return engine


def load_model(options: OnnxOptions) -> "OnnxModel":
    """Find the model and load it; see `load_engine`."""
    try:
        import onnx_asr
        import onnxruntime

        from ml.onnx.model import OnnxModel
    except ModuleNotFoundError as error:
        raise PackageMissingError(
            f"Реализации onnx нужен пакет {error.name}: pip install -r requirements-onnx.txt"
        ) from error
    providers = _resolve_device(options.device, onnxruntime.get_available_providers())
    folder, kind, quantization = _find(options)
    on_cpu = providers == [CPU]
    threads = options.cpu_threads or usable_cpus()
    workers = min(threads, CPU_WORKERS) if on_cpu else 1
    sessions = onnxruntime.SessionOptions()
    sessions.intra_op_num_threads = threads // workers
    sessions.add_session_config_entry("session.intra_op.allow_spinning", "0")  # decoders and requests compute as well
    _log.info("⏳ Загрузка модели %s (%s, %s)", Path(options.name).name, kind.name, quantization or "float32")
    try:
        adapter = onnx_asr.load_model(
            kind.name, folder, quantization=quantization, providers=providers, sess_options=sessions
        )
    except Exception as error:  # of onnx-asr, of onnxruntime, or of Python over files that are not what they should be
        raise _damaged() from error
    if not on_cpu and CUDA not in _providers_of(adapter.asr):  # onnxruntime goes on without, and only logs it
        raise DeviceUnavailableError(
            "Видеокарта не работает с ONNX Runtime: нужны драйвер и библиотеки CUDA, или MODEL_DEVICE=cpu."
        )
    languages = _languages_of(adapter.asr, kind)
    _check_language(options.language, languages, kind)
    batch_size = min(options.batch_size, CPU_BATCH) if on_cpu else options.batch_size
    return OnnxModel(
        adapter, kind, languages, options.language, batch_size, workers, CPU_SPARE_WORKERS if on_cpu else 0
    )


def _find(options: OnnxOptions) -> tuple[Path, Kind, str | None]:
    """The model's folder, its kind and the quantization to load."""
    from onnx_asr.resolver import model_repos

    folder = Path(options.name).expanduser()
    if folder.is_dir():
        kind = kind_of_folder(folder)
        return folder, kind, _choose_quantization(options.dtype, folder, kind)
    repository = model_repos.get(options.name, options.name)
    kind = kind_of_name(options.name) or kind_of_folder(_fetch(options, repository, ["config.json"]))
    quantization = None if options.dtype == AUTO else _quantization_of(options.dtype)
    folder = _fetch(options, repository, _files_of(kind, quantization))
    return folder, kind, _choose_quantization(options.dtype, folder, kind)


def _fetch(options: OnnxOptions, repository: str, wanted: Iterable[str]) -> Path:
    """The files `wanted` of the hub's repository, with the data that large ONNX files keep beside them."""
    patterns = [pattern.removeprefix("**/") for pattern in wanted]
    patterns += [f"*/{pattern}" for pattern in patterns]
    data = [f"{pattern}?data" for pattern in patterns if pattern.endswith(".onnx")]
    folder, _ = locate(
        repository, options.revision, options.local_files_only, ["config.json", *patterns, *data], ADVICE
    )
    return folder


def _choose_quantization(dtype: str, folder: Path, kind: Kind) -> str | None:
    """The quantization for `dtype` (MODEL_DTYPE) whose files are in `folder`. Raises ModelError."""
    wanted = list(QUANTIZATIONS.values()) if dtype == AUTO else [_quantization_of(dtype)]
    for quantization in wanted:
        if all(any(folder.glob(pattern)) for pattern in _files_of(kind, quantization)):
            return quantization
    which = "" if dtype == AUTO else f" в формате чисел «{dtype}» (MODEL_DTYPE)"
    raise ModelFormatError(f"В папке модели (MODEL_NAME) не все файлы модели {kind.name}{which}.")


def _quantization_of(dtype: str) -> str | None:
    if dtype not in QUANTIZATIONS:
        known = ", ".join([AUTO, *QUANTIZATIONS])
        raise DeviceUnavailableError(f"Формата чисел «{dtype}» (MODEL_DTYPE) у моделей ONNX нет: допустимы {known}.")
    return QUANTIZATIONS[dtype]


def _files_of(kind: Kind, quantization: str | None) -> list[str]:
    """Glob patterns of the files that onnx-asr wants of a model of this kind."""
    from onnx_asr.loader import create_asr_resolver

    files = create_asr_resolver(kind.name, Path(), offline=True).model_type._get_model_files(quantization)
    return list(files.values())


def _resolve_device(name: str, available: list[str]) -> list[Any]:
    """Providers for onnxruntime; a machine without a GPU gets its CPU for "cuda", with a warning in the log."""
    import torch

    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise DeviceUnavailableError(f"Неизвестное устройство «{name}»: допустимы cpu, cuda, cuda:N.")
    gpus = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and not gpus:
        _log.warning("Видеокарта с CUDA не найдена: модель будет работать на процессоре, это намного медленнее.")
    if not gpus:
        return [CPU]
    if int(index or 0) >= gpus:
        raise DeviceUnavailableError(f"Устройства «{name}» нет: видеокарт с CUDA на этой машине {gpus}.")
    if CUDA not in available:
        raise DeviceUnavailableError(
            "ONNX Runtime установлен без поддержки видеокарт: поставьте onnxruntime-gpu вместо onnxruntime, "
            "или MODEL_DEVICE=cpu."
        )
    return [(CUDA, {"device_id": int(index or 0)}), CPU]


def _providers_of(asr: Any) -> set[str]:
    """Providers in use by the model's sessions."""
    sessions = [value for value in vars(asr).values() if hasattr(value, "get_providers")]
    return {session.get_providers()[0] for session in sessions}


def _languages_of(asr: Any, kind: Kind) -> frozenset[str]:
    """Languages that the model can be asked for; empty where any may be."""
    if not kind.takes_language:
        return kind.languages
    tokens = [token.strip("<|>") for token in asr._tokens if token.startswith("<|") and token.endswith("|>")]
    return frozenset(token for token in tokens if len(token) == 2 and token.isalpha())


def _check_language(language: str, known: frozenset[str], kind: Kind) -> None:
    """Raise ModelFormatError for a language that the model does not know, or cannot detect."""
    if language == AUTO and kind.takes_language and not kind.detects_language:
        raise ModelFormatError("Модель не определяет язык: укажите его в MODEL_LANGUAGE, например ru.")
    if language != AUTO and known and language not in known:
        raise ModelFormatError(
            f"Модель не знает языка «{language}» (MODEL_LANGUAGE): она знает {', '.join(sorted(known))}."
        )


def _damaged() -> ModelError:
    return ModelFormatError(f"MODEL_NAME: модель ONNX повреждена или другого вида. {ADVICE}")
