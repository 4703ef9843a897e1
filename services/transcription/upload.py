"""Takes a request's audio in: checks what it says of itself and spools it to an unnamed temporary file."""

import errno
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from ml.errors import EmptyAudioError
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


@dataclass(frozen=True)
class Description:
    """What a request says of its audio."""

    filename: str
    format: str
    sample_rate: int  # Hz, of raw PCM only; 0 where not given

    @property
    def pcm_sample_rate(self) -> int | None:
        """Hz of raw PCM, None for every other format."""
        if self.format.strip().lower() != PCM_FORMAT:
            return None
        return self.sample_rate or DEFAULT_PCM_SAMPLE_RATE

    @property
    def format_name(self) -> str:
        """The format as the request names it: its format field, else its file name's ending."""
        return _printable(self.format.strip().lower()) or _ending(self.filename)

    @property
    def printable_filename(self) -> str:
        """The file name made safe for a log line."""
        return _printable(self.filename)

    def check(self) -> None:
        """Raises RequestError where there is no file name or no supported format is named."""
        if not self.filename.strip():
            raise MissingFilenameError("Не указано имя файла: заполните поле filename")
        named = (_ending(self.filename), self.format.strip().lower())
        if named[0] not in SUPPORTED_FORMATS and named[1] not in (*SUPPORTED_FORMATS, PCM_FORMAT):
            supported = ", ".join(name.upper() for name in SUPPORTED_FORMATS)
            raise UnsupportedFormatError(
                f"Формат не поддерживается: {self.format_name or 'не указан'}. Поддерживаются: {supported}"
            )


@dataclass(frozen=True)
class Upload:
    """A request's audio on disk."""

    file: BinaryIO
    size_bytes: int
    description: Description


@contextmanager
def spool(description: Description, pieces: Iterable[bytes], max_bytes: int | None = None) -> Iterator[Upload]:
    """Writes `pieces` to a temporary file that is gone when the context ends, whatever happens.

    Raises:
        UploadTooLargeError: the pieces add up to more than `max_bytes`; the rest is not read.
        NoSpaceError: the disk is full.
    """
    with tempfile.TemporaryFile(prefix="transcription-") as file:
        yield Upload(file, _write(file, pieces, max_bytes), description)


def check_content(upload: Upload) -> None:
    """Raises AudioError where the request can be refused without looking inside the audio."""
    upload.description.check()
    if not upload.size_bytes:
        raise EmptyAudioError("Пустой запрос: аудиоданные не переданы")


def _write(file: BinaryIO, pieces: Iterable[bytes], max_bytes: int | None) -> int:
    size_bytes = 0
    for piece in pieces:
        size_bytes += len(piece)
        if max_bytes is not None and size_bytes > max_bytes:
            raise UploadTooLargeError(f"Файл больше допустимого: STREAM_MAX_BYTES={max_bytes}")
        try:
            file.write(piece)
        except OSError as error:
            raise _disk_error(error) from error
    try:
        file.flush()
    except OSError as error:
        raise _disk_error(error) from error
    return size_bytes


def _disk_error(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT if hasattr(errno, "EDQUOT") else errno.ENOSPC):
        return NoSpaceError("На сервере не хватает места для файла, повторите позже")
    return error


def _ending(filename: str) -> str:
    return _printable(PurePath(filename.strip()).suffix.lower().lstrip("."))


def _printable(text: str) -> str:
    """Drops what could forge or break a log line and cuts the rest to a sensible length."""
    return "".join(character for character in text if character.isprintable())[:MAX_LOGGED_NAME]
