"""The Whisper implementation: OpenAI's Whisper by CTranslate2, micro-batched."""

from collections.abc import Callable

from ml.interfaces import ManagedEngine
from ml.whisper.load import DEFAULT_NAME, WhisperOptions, load_engine
from resources.config import Settings
from services.transcription.implementations.engine_service import InProcessService


class WhisperTranscriptionService(InProcessService):
    """Transcribes with Whisper in this process. Needs requirements-whisper.txt."""

    default_model = DEFAULT_NAME

    def engine_loader(self, settings: Settings) -> tuple[Callable[[WhisperOptions], ManagedEngine], WhisperOptions]:
        """See the base class."""
        return load_engine, WhisperOptions(
            name=self.model_name(settings),
            device=settings.model_device,
            dtype=settings.model_dtype,
            cpu_threads=settings.model_cpu_threads,
            batch_size=settings.model_batch_size,
            language=settings.model_language,
            revision=settings.model_revision,
            local_files_only=settings.model_local_files_only,
        )

    def get_version(self) -> str:
        """Name the implementation."""
        return "whisper"
