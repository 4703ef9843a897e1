"""Cuts a file into the messages of a streamed call, on the thread from which gRPC asks for them."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from generated.v1.transcription_pb2 import AudioChunk


class Upload:
    """An iterator of messages over one open file; a context manager that closes it, whoever is still reading."""

    def __init__(
        self,
        path: Path,
        first: AudioChunk,
        chunk_bytes: int,
        on_sent: Callable[[int], object] = lambda sent_bytes: None,
    ) -> None:
        """`first` carries the description; `on_sent` hears the size of a piece once the next one is asked for.

        Raises:
            OSError: the file cannot be opened.
        """
        self.failure: OSError | None = None  # why the file could not be read to its end
        self._file = path.open("rb")
        self._first: AudioChunk | None = first
        self._chunk_bytes = chunk_bytes
        self._on_sent = on_sent
        self._unreported_bytes = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "Upload":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self._file.close()

    def __iter__(self) -> "Upload":
        return self

    def __next__(self) -> AudioChunk:
        """The next message; the first one comes even of an empty file."""
        if self._unreported_bytes:
            self._on_sent(self._unreported_bytes)
        data = self._read()
        self._unreported_bytes = len(data)
        message, self._first = self._first or AudioChunk(), None
        message.chunk_data = data
        return message

    def _read(self) -> bytes:
        with self._lock:
            if self._file.closed:  # the call has ended before the file
                raise StopIteration
            try:
                data = self._file.read(self._chunk_bytes)
            except OSError as error:
                self.failure = error
                raise
        if not data and self._first is None:
            raise StopIteration
        return data
