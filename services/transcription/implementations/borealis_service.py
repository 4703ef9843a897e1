"""The Borealis implementation: chunks go to the engine that owns the model and its device."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ml.interfaces import ManagedEngine
from resources.config import Settings
from services.transcription.implementations.engine_service import InProcessService

if TYPE_CHECKING:
    from ml.borealis.load import ModelOptions


class BorealisTranscriptionService(InProcessService):
    """Transcribes with Borealis in this process."""

    def engine_loader(self, settings: Settings) -> "tuple[Callable[[ModelOptions], ManagedEngine], ModelOptions]":
        """See the base class."""
        from ml.borealis.load import load_engine  # PyTorch and transformers take seconds: not before a start fails

        return load_engine, _model_options(settings)

    def get_version(self) -> str:
        """Name the implementation."""
        return "borealis"


def _model_options(settings: Settings) -> "ModelOptions":
    """The settings that concern the model, as a value of the ml layer."""
    from ml.borealis.config import GenerationOptions
    from ml.borealis.load import ModelOptions

    return ModelOptions(
        name=settings.model_name,
        revision=settings.model_revision,
        local_files_only=settings.model_local_files_only,
        cache_dir=settings.model_cache_dir,
        device=settings.model_device,
        dtype=settings.model_dtype,
        cpu_threads=settings.model_cpu_threads,
        batch_size=settings.model_batch_size,
        generation=GenerationOptions(
            max_new_tokens=settings.model_max_new_tokens,
            do_sample=settings.model_do_sample,
            temperature=settings.model_temperature,
            top_p=settings.model_top_p,
            top_k=settings.model_top_k,
            seed=settings.model_seed,
            repetition_penalty=settings.model_repetition_penalty,
        ),
    )
