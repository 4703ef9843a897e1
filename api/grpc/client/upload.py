"""Reads a file as the messages of a streamed call, on the thread on which gRPC consumes them."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from generated.v1.transcription_pb2 import AudioChunk


class Source:
    """A file to be streamed, anew for each attempt."""

    def __init__(
        self,
        path: Path,
        description: AudioChunk,
        chunk_bytes: int,
        on_sent: Callable[[int], object] = lambda sent_bytes: None,
    ) -> None:
        """`description` is a first message without data; `on_sent` gets the size of each piece once it is sent.

        Raises:
            ValueError: `chunk_bytes` is less than 1.
        """
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
        self._path = path
        self._description = description
        self._chunk_bytes = chunk_bytes
        self._on_sent = on_sent
        self._sent_bytes = 0

    def open(self) -> "Upload":
        """Start at the first byte of the file; report what an earlier upload sent to `on_sent` as a negative size.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._sent_bytes:
            self._report(-self._sent_bytes)
        first = AudioChunk()
        first.CopyFrom(self._description)
        return Upload(self._path, first, self._chunk_bytes, self._report)

    def _report(self, sent_bytes: int) -> None:
        self._sent_bytes += sent_bytes
        self._on_sent(sent_bytes)


class Upload:
    """An iterator of messages over one open file; a context manager that closes it, even while gRPC still reads."""

    def __init__(self, path: Path, first: AudioChunk, chunk_bytes: int, on_sent: Callable[[int], object]) -> None:
        """`first` carries the description; `on_sent` gets the size of a piece when gRPC asks for the next one.

        Raises:
            OSError: the file cannot be opened.
        """
        self.failure: OSError | None = None  # the error that ended reading early
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
        """The next message; an empty file has one, too."""
        with self._lock:
            if self._file.closed:  # the call ended before the file: nothing more is read or reported
                raise StopIteration
            if self._unreported_bytes:
                self._on_sent(self._unreported_bytes)
            data = self._read()
            self._unreported_bytes = len(data)
        message, self._first = self._first or AudioChunk(), None
        message.chunk_data = data
        return message

    def _read(self) -> bytes:
        try:
            data = self._file.read(self._chunk_bytes)
        except OSError as error:
            self.failure = error
            raise
        if not data and self._first is None:
            raise StopIteration
        return data
