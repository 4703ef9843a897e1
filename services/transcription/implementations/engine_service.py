"""What every implementation over an engine shares: its life cycle, its state and the hook `recognise`."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from generated.v1 import transcription_pb2_grpc
from ml.audio.ffmpeg import find_ffmpeg
from ml.audio.splitter import Chunk
from ml.interfaces import ManagedEngine, RecognitionOptions
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.base_service import TranscriptionServiceBase


class EngineService(TranscriptionServiceBase, transcription_pb2_grpc.TranscriptionServiceServicer):
    """Batches the chunks of all requests in one engine.

    A subclass fills `create_engine` and `get_version`, and sets `default_model` where it is another one than the
    settings' default.
    """

    default_model: str = Settings.model_fields["model_name"].default

    def __init__(self) -> None:
        super().__init__()
        self._engine: ManagedEngine | None = None

    @abstractmethod
    def create_engine(self, settings: Settings) -> ManagedEngine:
        """Load the model and return its engine, warmed up.

        Raises:
            ml.errors.SpeechError: it cannot serve; the message is one line for the operator.
        """

    def model_name(self, settings: Settings) -> str:
        """MODEL_NAME, or this implementation's default where the setting has its default."""
        is_default = settings.model_name == Settings.model_fields["model_name"].default
        return self.default_model if is_default else settings.model_name

    def window(self, settings: Settings) -> int:
        """Chunks of one recording to keep in the engine at once."""
        return 2 * settings.model_batch_size

    def start(self, settings: Settings) -> None:
        """Load the model, once, and run a warm-up inference."""
        find_ffmpeg(settings.ffmpeg_binary)  # before the model, which takes longer to load
        name = self.model_name(settings)
        folder = Path(name)
        self._identity = (folder.name if folder.is_dir() else name, settings.model_revision or "")
        self._watchdog_timeout_s = settings.watchdog_timeout_s
        self._engine = self.create_engine(settings)
        self.max_chunk_s, self.capabilities = self._engine.max_chunk_s, self._engine.capabilities
        super().start(settings)
        self._recognise = recognise_with(self._engine, self.window(settings))

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        """See the base class."""
        return self._recognise(chunks, cancelled, options)

    def model_identity(self) -> tuple[str, str]:
        """See the base class. A folder is named without its place on this machine."""
        return self._identity

    def is_alive(self) -> bool:
        """Whether the engine's thread runs and is not stuck."""
        return bool(
            self._engine and self._engine.is_alive and self._engine.busy_without_progress_s < self._watchdog_timeout_s
        )

    def abort_all(self) -> None:
        """See the interface."""
        if self._engine:
            self._engine.abort_all()

    def queued_audio_s(self) -> float:
        """See the base class."""
        return self._engine.queued_audio_s if self._engine else 0.0

    def gauges(self) -> Mapping[str, float]:
        """See the interface."""
        return self._engine.gauges() if self._engine else {}

    def stop(self) -> None:
        """End the engine's thread and free the device."""
        super().stop()
        if self._engine:
            self._engine.close()


class InProcessService(EngineService):
    """Runs the engine in this process. A subclass fills `engine_loader`, with which replicas make theirs as well."""

    @abstractmethod
    def engine_loader(self, settings: Settings) -> tuple[Callable[[Any], ManagedEngine], Any]:
        """The function that loads the model and returns its engine, and the options to call it with."""

    def create_engine(self, settings: Settings) -> ManagedEngine:
        """See the base class."""
        load_engine, options = self.engine_loader(settings)
        return load_engine(options)
