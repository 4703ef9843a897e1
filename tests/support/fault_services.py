"""Stand-ins at the model's edge: everything before it, the decoder and the wire, is real."""

import threading
from collections.abc import Callable, Iterator

from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from resources.config import Settings
from services.transcription.base_service import TranscriptionServiceBase
from services.transcription.implementations.engine_service import EngineService
from services.transcription.implementations.whisper_service import WhisperTranscriptionService
from tests.support.waiting import HANG_LIMIT_S


class ChunkHook:
    """A service that calls `at_chunk` with the number of each chunk; the hook may block or raise."""

    def __init__(self, at_chunk: Callable[[int], object] = lambda number: None) -> None:
        super().__init__()
        self.at_chunk = at_chunk
        self.recognised = 0  # chunks of all recordings

    def note(self, number: int) -> None:
        """Count the `number`th chunk of its recording."""
        self.at_chunk(number)
        self.recognised += 1


class NumberingService(ChunkHook, TranscriptionServiceBase):
    """Answers each chunk with its number within its recording, after `at_chunk`."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for number, _ in enumerate(chunks, start=1):
            self.note(number)
            yield Completion(f"часть {number}")

    def get_version(self) -> str:
        return "numbering"


class HookedEngineService(ChunkHook, EngineService):
    """A service over an engine; `at_chunk` is called when the chunk's text is there."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for number, completion in enumerate(super().recognise(chunks, cancelled, options), start=1):
            self.note(number)
            yield completion


class HookedWhisper(HookedEngineService, WhisperTranscriptionService):
    """Whisper with the hook."""


class SlowToStart(NumberingService):
    """Loads until `may_start` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_start = threading.Event()

    def start(self, settings: Settings) -> None:
        super().start(settings)
        assert self.may_start.wait(HANG_LIMIT_S)
