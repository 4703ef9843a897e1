"""The implementation over onnx-asr: GigaAM, T-one, Vosk, Parakeet and others, micro-batched."""

from collections.abc import Callable

from ml.interfaces import ManagedEngine
from ml.onnx.load import DEFAULT_NAME, OnnxOptions, load_engine
from resources.config import Settings
from services.transcription.implementations.engine_service import InProcessService


class OnnxTranscriptionService(InProcessService):
    """Transcribes with a model in ONNX in this process. Needs requirements-onnx.txt."""

    default_model = DEFAULT_NAME

    def engine_loader(self, settings: Settings) -> tuple[Callable[[OnnxOptions], ManagedEngine], OnnxOptions]:
        """See the base class."""
        return load_engine, OnnxOptions(
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
