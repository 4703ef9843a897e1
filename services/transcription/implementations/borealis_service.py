"""The Borealis implementation: chunks go to the engine that owns the model and its device."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from generated.v1 import transcription_pb2_grpc
from ml.audio.splitter import Chunk
from ml.borealis.config import GenerationOptions
from ml.borealis.load import ModelOptions, load_engine
from ml.engine.engine import Engine
from ml.interfaces import RecognitionOptions
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.base_service import TranscriptionServiceBase


class BorealisTranscriptionService(TranscriptionServiceBase, transcription_pb2_grpc.TranscriptionServiceServicer):
    """Transcribes with Borealis, batching the chunks of all requests together."""

    def __init__(self) -> None:
        super().__init__()
        self._engine: Engine | None = None

    def start(self, settings: Settings) -> None:
        """Loads the model, once, and runs a warm-up inference."""
        super().start(settings)
        folder = Path(settings.model_name)
        self._identity = (folder.name if folder.is_dir() else settings.model_name, settings.model_revision or "")
        self._watchdog_timeout_s = settings.watchdog_timeout_s
        self._engine = load_engine(model_options(settings))
        window = 2 * settings.model_batch_size
        self._recognise = recognise_with(self._engine, window)

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        """See the base class."""
        return self._recognise(chunks, cancelled, options)

    def model_identity(self) -> tuple[str, str]:
        """See the base class. A folder is named without its place on this machine."""
        return self._identity

    def get_version(self) -> str:
        """Names the implementation."""
        return "borealis"

    def is_alive(self) -> bool:
        """Whether the engine's thread runs and is not stuck."""
        return bool(
            self._engine and self._engine.is_alive and self._engine.busy_without_progress_s < self._watchdog_timeout_s
        )

    def abandon(self) -> None:
        """See the interface."""
        if self._engine:
            self._engine.abandon()

    def queued_audio_s(self) -> float:
        """See the base class."""
        return self._engine.queued_audio_s if self._engine else 0.0

    def gauges(self) -> Mapping[str, float]:
        """See the interface."""
        return self._engine.gauges() if self._engine else {}

    def stop(self) -> None:
        """Ends the engine's thread and frees the device."""
        super().stop()
        if self._engine:
            self._engine.close()


def model_options(settings: Settings) -> ModelOptions:
    """The settings that concern the model, as a value of the ml layer."""
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
        ),
    )
