"""Spools the audio of a request to an unnamed temporary file."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from services.transcription.errors import NoSpaceError, UploadTooLargeError

_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no EDQUOT


class Spool:
    """The audio of a request on its way to the disk."""

    def __init__(self, file: BinaryIO, max_bytes: int | None) -> None:
        self.file = file
        self.size_bytes = 0
        self._max_bytes = max_bytes

    def write(self, piece: bytes) -> None:
        """Append `piece` to the file.

        Raises:
            UploadTooLargeError: the pieces add up to more than the limit.
            NoSpaceError: the disk is full.
        """
        self.size_bytes += len(piece)
        if self._max_bytes is not None and self.size_bytes > self._max_bytes:
            raise UploadTooLargeError(f"Файл больше допустимого: STREAM_MAX_BYTES={self._max_bytes}")
        try:
            rest = memoryview(piece)
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise _disk_error(error) from error


@contextmanager
def spool(max_bytes: int | None = None) -> Iterator[Spool]:
    """A temporary file that is deleted when the context ends, even when the process is killed.

    Raises:
        NoSpaceError: the disk has no room for another file.
    """
    try:
        # Unbuffered: a full disk shows at once, and nothing is left to be written when the file is closed.
        file = tempfile.TemporaryFile(prefix="transcription-", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise _disk_error(error) from error
    with file:
        yield Spool(file, max_bytes)


def _disk_error(error: OSError) -> Exception:
    return NoSpaceError() if error.errno in _DISK_FULL else error
