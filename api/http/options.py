"""What a request says of itself, read from form fields, query parameters or a WebSocket's first message."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from api.http.errors import invalid
from generated.v1.transcription_pb2 import AudioChunk, ChannelMode, TranscriptionOptions

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
STREAMED_FORMATS = ("json", "text")
GRANULARITIES = ("segment", "word")
CALL_FIELDS = (
    "language",
    "prompt",
    "channel_mode",
    "format",
    "sample_rate",
)  # what the call must know before its first byte of audio
_LISTS = ("timestamp_granularities", "timestamp_granularities[]")
_YES, _NO = ("true", "1"), ("false", "0", "")
_FORMAT_OF_ENDING = {"mpeg": "mp3"}  # which OpenAI takes and the service does not


@dataclass(frozen=True)
class Options:
    """How to transcribe, and how to answer."""

    language: str = ""
    prompt: str = ""
    channel_mode: str = "mix"
    format: str = ""  # of the file, where its name does not tell
    sample_rate: int = 0  # Hz, of raw PCM
    response_format: str = "json"
    granularities: tuple[str, ...] = ()
    stream: bool = False

    @property
    def wants_words(self) -> bool:
        """Whether the answer has words with their times."""
        return "word" in self.granularities

    @property
    def wants_segments(self) -> bool:
        """Whether verbose_json has segments: unless only words are asked for."""
        return "segment" in self.granularities or not self.granularities


@dataclass
class Fields:
    """The fields seen so far; later ones replace earlier ones, but for lists."""

    values: dict[str, str] = field(default_factory=dict)
    granularities: list[str] = field(default_factory=list)

    def add(self, name: str, value: str) -> None:
        """Take a field in."""
        if name in _LISTS:
            self.granularities += [part.strip() for part in value.split(",") if part.strip()]
        else:
            self.values[name] = value.strip()

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Fields":
        """Those of `pairs`."""
        fields = cls()
        for name, value in pairs:
            fields.add(name, value)
        return fields

    def read(self) -> Options:
        """The options.

        Raises:
            ApiError: 400 that names the field, its value and what is allowed.
        """
        values = self.values
        stream = _flag("stream", values.get("stream", ""))
        options = Options(
            language=values.get("language", ""),
            prompt=values.get("prompt", ""),
            format=values.get("format", ""),
            sample_rate=_hertz(values.get("sample_rate", "") or "0"),
            channel_mode=choice("channel_mode", values.get("channel_mode", "mix").lower(), ("mix", "separate")),
            response_format=choice("response_format", values.get("response_format") or "json", FORMATS),
            granularities=tuple(choice(_LISTS[1], value, GRANULARITIES) for value in self.granularities),
            stream=stream,
        )
        if stream:
            choice("response_format", options.response_format, STREAMED_FORMATS)
        if options.granularities and options.response_format != "verbose_json":
            raise invalid("INVALID_FIELD", f"{_LISTS[1]} требует response_format=verbose_json", _LISTS[1])
        return options


def describe(options: Options, filename: str, content_type: str, word_times: bool) -> AudioChunk:
    """The first message of the call, still without audio. A file without a name is called by its field.

    Where the name has no ending, the media type names the format, as a browser sends it with a recording.
    """
    ending = filename.rpartition(".")[2].lower() if "." in filename else ""
    is_media = content_type.startswith(("audio/", "video/"))
    known = _FORMAT_OF_ENDING.get(ending, "") if ending or not is_media else content_type
    return AudioChunk(
        filename=filename or "file",
        format=options.format or known,
        sample_rate=options.sample_rate,
        options=call_options(options.language, options.prompt, options.channel_mode, word_times),
    )


def call_options(language: str, prompt: str, channel_mode: str, word_times: bool) -> TranscriptionOptions:
    """The contract's options."""
    return TranscriptionOptions(
        channel_mode=ChannelMode.SEPARATE if channel_mode == "separate" else ChannelMode.MIX,
        word_times=word_times,
        language=language,
        prompt=prompt,
    )


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value`, where it is one of `allowed`; else raises ApiError."""
    if value not in allowed:
        raise invalid("INVALID_FIELD", f"{name}={value[:100]!r}: допустимо {', '.join(allowed)}", name)
    return value


def _hertz(value: str) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise invalid("INVALID_FIELD", f"sample_rate={value[:100]!r}: допустимо целое число герц", "sample_rate")
    return int(value)


def _flag(name: str, value: str) -> bool:
    if value.lower() not in (*_YES, *_NO):
        raise invalid("INVALID_FIELD", f"{name}={value[:100]!r}: допустимо true или false", name)
    return value.lower() in _YES
