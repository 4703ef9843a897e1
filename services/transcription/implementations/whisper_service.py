"""The Whisper implementation: OpenAI's Whisper by CTranslate2, micro-batched."""

from ml.interfaces import Capabilities, ManagedEngine
from ml.whisper.languages import LANGUAGES
from ml.whisper.load import DEFAULT_NAME, WhisperOptions, load_engine
from resources.config import Settings
from services.transcription.implementations.engine_service import EngineService


class WhisperTranscriptionService(EngineService):
    """Transcribes with Whisper in this process. Needs requirements-whisper.txt."""

    default_model = DEFAULT_NAME
    capabilities = Capabilities(languages=LANGUAGES, detects_language=True, takes_prompt=True)

    def create_engine(self, settings: Settings) -> ManagedEngine:
        """See the base class."""
        return load_engine(self.options(settings))

    def options(self, settings: Settings) -> WhisperOptions:
        """The settings that concern the model, as a value of the ml layer."""
        return WhisperOptions(
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
