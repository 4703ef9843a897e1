from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AudioRequest(_message.Message):
    __slots__ = ("audio_data", "filename", "format", "sample_rate")
    AUDIO_DATA_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    audio_data: bytes
    filename: str
    format: str
    sample_rate: int
    def __init__(self, audio_data: _Optional[bytes] = ..., filename: _Optional[str] = ..., format: _Optional[str] = ..., sample_rate: _Optional[int] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("chunk_data", "filename", "format", "sample_rate")
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    chunk_data: bytes
    filename: str
    format: str
    sample_rate: int
    def __init__(self, chunk_data: _Optional[bytes] = ..., filename: _Optional[str] = ..., format: _Optional[str] = ..., sample_rate: _Optional[int] = ...) -> None: ...

class TranscriptionResponse(_message.Message):
    __slots__ = ("transcript", "success", "error_message", "processing_time", "audio_duration", "stats")
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIME_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DURATION_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    transcript: str
    success: bool
    error_message: str
    processing_time: float
    audio_duration: float
    stats: TranscriptionStats
    def __init__(self, transcript: _Optional[str] = ..., success: _Optional[bool] = ..., error_message: _Optional[str] = ..., processing_time: _Optional[float] = ..., audio_duration: _Optional[float] = ..., stats: _Optional[_Union[TranscriptionStats, _Mapping]] = ...) -> None: ...

class TranscriptionStats(_message.Message):
    __slots__ = ("word_count", "char_count", "speed_factor")
    WORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAR_COUNT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FACTOR_FIELD_NUMBER: _ClassVar[int]
    word_count: int
    char_count: int
    speed_factor: float
    def __init__(self, word_count: _Optional[int] = ..., char_count: _Optional[int] = ..., speed_factor: _Optional[float] = ...) -> None: ...
