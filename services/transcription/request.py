"""One request: the description of its audio, and its state while it is answered."""

import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import PurePath

from ml.interfaces import Capabilities, RecognitionOptions
from ml.pipeline.builder import OnSegment
from services.transcription.errors import MissingFilenameError, UnsupportedFormatError
from services.transcription.options import RequestOptions

# Extensions of file names, which the format field may hold too; the content decides how it is decoded.
SUPPORTED_FORMATS = (
    *("mp3", "mp2", "mpga", "wav", "wave", "flac", "aac", "ogg", "oga", "opus", "spx"),
    *("m4a", "m4b", "mp4", "m4v", "mov", "3gp", "3gpp", "3g2", "webm", "weba", "mkv", "mka"),
    *("aiff", "aif", "aifc", "caf", "amr", "awb", "wma", "asf", "wmv"),
)
_COMMON_FORMATS = (
    *("mp3", "wav", "m4a", "mp4", "flac", "ogg", "opus", "aac", "webm", "mkv", "mov", "3gp"),
    *("aiff", "caf", "amr", "wma"),
)
# Subtypes of media types that are not extensions, without "x-" and "vnd.".
_MEDIA_SUBTYPES = {
    "mpeg": "mp3",
    "mpeg3": "mp3",
    "mpg": "mp3",
    "aacp": "aac",
    "mp4a-latm": "m4a",
    "amr-wb": "awb",
    "quicktime": "mov",
    "3gpp2": "3g2",
    "matroska": "mkv",
    "ms-wma": "wma",
    "ms-wmv": "wmv",
    "ms-asf": "asf",
}
PCM_FORMAT = "pcm"
DEFAULT_PCM_SAMPLE_RATE = 16_000  # Hz
MAX_LOGGED_NAME = 200  # characters
_MAX_PARSED = 4096  # characters of a field: a message may hold 100 MB of them


@dataclass(frozen=True)
class AudioInfo:
    """The description of the audio in a request."""

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
        """The format as the request names it: its format field, else the extension of its file name."""
        return _printable(self._format) or _extension(self.filename)

    @property
    def printable_filename(self) -> str:
        """The file name made safe for a log line."""
        return _printable(self.filename)

    @property
    def _format(self) -> str:
        return self.format.strip()[:_MAX_PARSED].lower()

    def check(self) -> None:
        """Raise RequestError where there is no file name or no supported format is named."""
        if not self.filename.strip():
            raise MissingFilenameError
        named = (_extension(self.filename), _without_decoration(self._format))
        if self._format != PCM_FORMAT and not any(name in SUPPORTED_FORMATS for name in named):
            supported = ", ".join(name.upper() for name in _COMMON_FORMATS)
            raise UnsupportedFormatError(
                f"Формат не поддерживается: {self.format_name or 'не указан'}. Поддерживаются: {supported}"
            )


@dataclass
class Call:
    """The state of a call while it is answered."""

    audio_info: AudioInfo
    options: RequestOptions = field(default_factory=RequestOptions)
    capabilities: Capabilities = field(default_factory=Capabilities)  # of the model
    cancelled: threading.Event = field(default_factory=threading.Event)  # set when the call ends, however it ends
    on_segment: OnSegment = lambda segment: None
    incremental: bool = False  # whether the caller gets each segment at once
    received_s: float = field(default_factory=time.perf_counter)  # time of the last byte
    decoded_s: float = 0.0  # seconds of audio

    def check(self) -> None:
        """Raise RequestError for a request that cannot be transcribed whatever its audio is."""
        self.audio_info.check()
        self.options.check()

    def recognition_options(self) -> tuple[RecognitionOptions, tuple[str, ...]]:
        """The options that the model can follow, and a warning for each of the others."""
        options, warnings = self.options.for_model(self.capabilities)
        return replace(options, incremental=self.incremental), warnings

    @property
    def processing_s(self) -> float:
        """Seconds since the last byte arrived."""
        return time.perf_counter() - self.received_s


def _without_decoration(format_name: str) -> str:
    """Return the extension for a format named as ".mp3", "audio/mpeg" or "audio/webm;codecs=opus"."""
    name = format_name.partition(";")[0].strip().removeprefix(".")
    kind, _, subtype = name.rpartition("/")
    if kind not in ("audio", "video", "application"):
        return name
    subtype = subtype.removeprefix("x-").removeprefix("vnd.")
    return _MEDIA_SUBTYPES.get(subtype, subtype)


def _extension(filename: str) -> str:
    return _printable(PurePath(filename.strip()[-_MAX_PARSED:]).suffix.lower().lstrip("."))


def _printable(text: str) -> str:
    """Drop what could forge or break a log line, and cut the rest to a sensible length."""
    return "".join(character for character in text[:_MAX_PARSED] if character.isprintable())[:MAX_LOGGED_NAME]
