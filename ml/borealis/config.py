"""How text is decoded, on which device and in which number format."""

import logging
from dataclasses import dataclass

import torch

from ml.errors import DeviceUnavailableError


@dataclass(frozen=True)
class GenerationOptions:
    """How text is decoded; the sampling values are those of the model card."""

    max_new_tokens: int = 350  # the longest answer to a chunk, in tokens
    do_sample: bool = False  # greedy, hence deterministic
    temperature: float = 0.2  # this and the following count only when sampling
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 0
    repetition_penalty: float | None = None  # 1 for none; None for the checkpoint's own


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

logger = logging.getLogger("BorealisModel")


def resolve_device(name: str) -> torch.device:
    """The device called `name`; a machine without a GPU gets its CPU for "cuda", with a warning in the log.

    Raises DeviceUnavailableError for a name that torch does not know or a GPU this machine does not have.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailableError(f"Неизвестное устройство «{name}»: допустимы cpu, cuda, cuda:N.") from error
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        logger.warning("Видеокарта с CUDA не найдена: модель будет работать на процессоре, это намного медленнее.")
        return torch.device("cpu")
    index = device.index if device.index is not None else torch.cuda.current_device()
    if index >= count:
        raise DeviceUnavailableError(f"Устройства «{name}» нет: видеокарт с CUDA на этой машине {count}.")
    return torch.device("cuda", index)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format called `name`; "auto" is bfloat16 on CUDA, else float32. Raises DeviceUnavailableError."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise DeviceUnavailableError(f"Неизвестный формат чисел «{name}»: допустимы auto, {', '.join(DTYPES)}.")
    return DTYPES[name]
