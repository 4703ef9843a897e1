"""Takes a model from its name to a warm engine."""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from ml.borealis.checkpoint import prepare_checkpoint
from ml.borealis.config import GenerationOptions, resolve_device, resolve_dtype
from ml.borealis.model import BorealisModel
from ml.borealis.runner import make_engine
from ml.borealis.self_check import NOT_FINITE
from ml.cpu import usable_cpus
from ml.engine.engine import Engine
from ml.errors import DeviceUnavailableError
from ml.heap import release_free_memory

_log = logging.getLogger("BorealisModel")


@dataclass(frozen=True)
class ModelOptions:
    """Which model to run, where and how."""

    name: str  # a folder or a hub name
    cache_dir: Path
    device: str = "cuda"
    dtype: str = "auto"
    cpu_threads: int | None = None  # that compute on the CPU; None is one for each core within the CPU quota
    batch_size: int = 32  # chunks recognised together
    revision: str | None = None
    local_files_only: bool = False
    generation: GenerationOptions = field(default_factory=GenerationOptions)


def load_engine(options: ModelOptions) -> Engine:
    """Prepares the checkpoint, loads the model and runs a warm-up inference.

    Raises:
        ModelError: the model is missing or damaged.
        DeviceUnavailableError: it does not give finite numbers in this format.
        RecognitionError: it fails even over the warm-up.
    """
    checkpoint = prepare_checkpoint(
        options.name, options.cache_dir, revision=options.revision, local_files_only=options.local_files_only
    )
    threads = options.cpu_threads or min(torch.get_num_threads(), usable_cpus())
    torch.set_num_threads(threads)  # before the engine's thread starts, which takes it over
    device = resolve_device(options.device)
    dtype = resolve_dtype(options.dtype, device)
    disable_progress_bar()  # a server's log is no place for one
    _log.info("⏳ Загрузка модели %s (%s, %s)", checkpoint.name, device, str(dtype).removeprefix("torch."))
    model = BorealisModel.load(checkpoint.path, device, dtype, options.generation)
    engine = make_engine(model, options.batch_size)
    release_free_memory()
    try:
        confidence = engine.warm_up().confidence
        if confidence is not None and not math.isfinite(confidence):
            raise DeviceUnavailableError(NOT_FINITE)
        release_free_memory()
    except BaseException:  # Ctrl+C as well: the engine's thread would keep the program from ending
        engine.close()
        raise
    _log.info("🚀 Модель готова: %s, батч %d", checkpoint.name, options.batch_size)
    return engine
