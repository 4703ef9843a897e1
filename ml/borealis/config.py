"""How text is decoded, on which device and in which number format."""

import logging
from dataclasses import dataclass

import torch

from ml.cpu import computes_natively
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


DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
    "int8": torch.int8,  # linear layers and embeddings on a CPU; the rest is float32
}

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
    """The number format called `name`; "auto" is one that the device computes with.

    On CUDA "auto" is bfloat16 from compute capability 8.0 (Ampere) on, else float16; on a CPU it is float32. A format
    that is emulated gives a warning in the log. Raises DeviceUnavailableError for an unknown name.
    """
    if name not in ("auto", *DTYPES):
        raise DeviceUnavailableError(f"Неизвестный формат чисел «{name}»: допустимы auto, {', '.join(DTYPES)}.")
    dtype = DTYPES.get(name)
    if device.type == "cpu":
        dtype = dtype or torch.float32
        is_native = computes_natively(dtype)
    elif dtype == torch.int8:
        raise DeviceUnavailableError("Формат int8 (MODEL_DTYPE) есть только на процессоре: MODEL_DEVICE=cpu.")
    else:
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        dtype = dtype or (torch.bfloat16 if has_bfloat16 else torch.float16)
        is_native = has_bfloat16 or dtype != torch.bfloat16
    if not is_native:
        logger.warning("Формат %s (MODEL_DTYPE) здесь эмулируется: с auto модель будет работать в разы быстрее.", name)
    return dtype
