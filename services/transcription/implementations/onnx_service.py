"""The implementation over onnx-asr: GigaAM, T-one, Vosk, Parakeet and others, micro-batched."""

from ml.interfaces import ManagedEngine
from ml.onnx.load import DEFAULT_NAME, OnnxOptions, load_model, start_engine
from resources.config import Settings
from services.transcription.implementations.engine_service import EngineService


class OnnxTranscriptionService(EngineService):
    """Transcribes with a model in ONNX in this process. Needs requirements-onnx.txt."""

    default_model = DEFAULT_NAME

    def create_engine(self, settings: Settings) -> ManagedEngine:
        """See the base class. What the model can do follows from its kind."""
        model = load_model(self.options(settings))
        self.capabilities = model.capabilities
        return start_engine(model)

    def options(self, settings: Settings) -> OnnxOptions:
        """The settings that concern the model, as a value of the ml layer."""
        return OnnxOptions(
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
        return "onnx"
