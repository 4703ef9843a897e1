"""Stand-ins at the model's edge: everything before it, the decoder and the wire, is real."""

import threading
from collections.abc import Callable, Iterator

from ml.audio.splitter import Chunk
from ml.interfaces import RecognitionOptions
from ml.transcript import Completion
from services.transcription.base_service import TranscriptionServiceBase


class Watched:
    """A service that tells a test how far it is: `at_chunk` hears of each chunk, and may wait or fail."""

    def __init__(self, at_chunk: Callable[[int], object] = lambda number: None) -> None:
        super().__init__()
        self.at_chunk = at_chunk
        self.recognised = 0  # chunks of all recordings

    def note(self, number: int) -> None:
        """One more chunk, the `number`th of its recording."""
        self.at_chunk(number)
        self.recognised += 1


class NumberingService(Watched, TranscriptionServiceBase):
    """Answers each chunk with its number within its recording; `at_chunk` hears of it first."""

    def recognise(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for number, _ in enumerate(chunks, start=1):
            self.note(number)
            yield Completion(f"часть {number}")

    def get_version(self) -> str:
        return "reciter"
