"""Takes a request's audio in: checks what it says of itself and spools it to an unnamed temporary file."""

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from services.transcription.errors import (
    MissingFilenameError,
    NoSpaceError,
    UnsupportedFormatError,
    UploadTooLargeError,
)

SUPPORTED_FORMATS = ("mp3", "wav", "m4a", "flac", "ogg", "aac")
PCM_FORMAT = "pcm"
DEFAULT_PCM_SAMPLE_RATE = 16_000  # Hz
MAX_LOGGED_NAME = 200  # characters
_LOOKED_AT = 4096  # characters of what a request says of itself: it may say as much as a message holds


@dataclass(frozen=True)
class AudioInfo:
    """What a request says of its audio."""

    filename: str
    format: str
    sample_rate: int  # Hz, of raw PCM only; 0 where not given

    @property
    def pcm_sample_rate(self) -> int | None:
        """Hz of raw PCM, None for every other format."""
        if self._format != PCM_FORMAT:
            return None
        return self.sample_rate or DEFAULT_PCM_SAMPLE_RATE

    @property
    def format_name(self) -> str:
        """The format as the request names it: its format field, else its file name's ending."""
        return _printable(self._format) or _ending(self.filename)

    @property
    def printable_filename(self) -> str:
        """The file name made safe for a log line."""
        return _printable(self.filename)

    @property
    def _format(self) -> str:
        return self.format.strip()[:_LOOKED_AT].lower()

    def check(self) -> None:
        """Raises RequestError where there is no file name or no supported format is named."""
        if not self.filename.strip():
            raise MissingFilenameError("Не указано имя файла: заполните поле filename")
        named = (_ending(self.filename), self._format)
        if named[0] not in SUPPORTED_FORMATS and named[1] not in (*SUPPORTED_FORMATS, PCM_FORMAT):
            supported = ", ".join(name.upper() for name in SUPPORTED_FORMATS)
            raise UnsupportedFormatError(
                f"Формат не поддерживается: {self.format_name or 'не указан'}. Поддерживаются: {supported}"
            )


class Spool:
    """A request's audio on its way to a temporary file without a name."""

    def __init__(self, file: BinaryIO, max_bytes: int | None) -> None:
        self.file = file
        self.size_bytes = 0
        self._max_bytes = max_bytes

    def take(self, piece: bytes) -> None:
        """Adds `piece` to the file.

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
    """A temporary file that is gone when the context ends, whatever happens.

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
    if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
        return NoSpaceError("На сервере не хватает места для файла, повторите позже")
    return error


def _ending(filename: str) -> str:
    return _printable(PurePath(filename.strip()[-_LOOKED_AT:]).suffix.lower().lstrip("."))


def _printable(text: str) -> str:
    """Drops what could forge or break a log line and cuts the rest to a sensible length."""
    return "".join(character for character in text[:_LOOKED_AT] if character.isprintable())[:MAX_LOGGED_NAME]
