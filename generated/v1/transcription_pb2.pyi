from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChannelMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MIX: _ClassVar[ChannelMode]
    SEPARATE: _ClassVar[ChannelMode]

class SegmentStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENT_STATUS_UNSPECIFIED: _ClassVar[SegmentStatus]
    TRANSCRIBED: _ClassVar[SegmentStatus]
    SILENCE: _ClassVar[SegmentStatus]
    RETRIED: _ClassVar[SegmentStatus]
    FLAGGED: _ClassVar[SegmentStatus]
MIX: ChannelMode
SEPARATE: ChannelMode
SEGMENT_STATUS_UNSPECIFIED: SegmentStatus
TRANSCRIBED: SegmentStatus
SILENCE: SegmentStatus
RETRIED: SegmentStatus
FLAGGED: SegmentStatus

class AudioRequest(_message.Message):
    __slots__ = ("audio_data", "filename", "format", "sample_rate", "options")
    AUDIO_DATA_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    audio_data: bytes
    filename: str
    format: str
    sample_rate: int
    options: TranscriptionOptions
    def __init__(self, audio_data: _Optional[bytes] = ..., filename: _Optional[str] = ..., format: _Optional[str] = ..., sample_rate: _Optional[int] = ..., options: _Optional[_Union[TranscriptionOptions, _Mapping]] = ...) -> None: ...

class TranscriptionOptions(_message.Message):
    __slots__ = ("channel_mode", "word_times", "language", "prompt")
    CHANNEL_MODE_FIELD_NUMBER: _ClassVar[int]
    WORD_TIMES_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    channel_mode: ChannelMode
    word_times: bool
    language: str
    prompt: str
    def __init__(self, channel_mode: _Optional[_Union[ChannelMode, str]] = ..., word_times: _Optional[bool] = ..., language: _Optional[str] = ..., prompt: _Optional[str] = ...) -> None: ...

class AudioChunk(_message.Message):
    __slots__ = ("chunk_data", "filename", "format", "sample_rate", "options")
    CHUNK_DATA_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_RATE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    chunk_data: bytes
    filename: str
    format: str
    sample_rate: int
    options: TranscriptionOptions
    def __init__(self, chunk_data: _Optional[bytes] = ..., filename: _Optional[str] = ..., format: _Optional[str] = ..., sample_rate: _Optional[int] = ..., options: _Optional[_Union[TranscriptionOptions, _Mapping]] = ...) -> None: ...

class TranscriptionResponse(_message.Message):
    __slots__ = ("transcript", "success", "error_message", "processing_time", "audio_duration", "stats", "segments", "stage_times", "model_name", "model_revision", "warnings")
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ERROR_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROCESSING_TIME_FIELD_NUMBER: _ClassVar[int]
    AUDIO_DURATION_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STAGE_TIMES_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    transcript: str
    success: bool
    error_message: str
    processing_time: float
    audio_duration: float
    stats: TranscriptionStats
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    stage_times: StageTimes
    model_name: str
    model_revision: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, transcript: _Optional[str] = ..., success: _Optional[bool] = ..., error_message: _Optional[str] = ..., processing_time: _Optional[float] = ..., audio_duration: _Optional[float] = ..., stats: _Optional[_Union[TranscriptionStats, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., stage_times: _Optional[_Union[StageTimes, _Mapping]] = ..., model_name: _Optional[str] = ..., model_revision: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("start_s", "end_s", "text", "status", "channel", "confidence", "words")
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    start_s: float
    end_s: float
    text: str
    status: SegmentStatus
    channel: int
    confidence: float
    words: _containers.RepeatedCompositeFieldContainer[Word]
    def __init__(self, start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., text: _Optional[str] = ..., status: _Optional[_Union[SegmentStatus, str]] = ..., channel: _Optional[int] = ..., confidence: _Optional[float] = ..., words: _Optional[_Iterable[_Union[Word, _Mapping]]] = ...) -> None: ...

class Word(_message.Message):
    __slots__ = ("text", "start_s", "end_s", "confidence", "is_estimated")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    START_S_FIELD_NUMBER: _ClassVar[int]
    END_S_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    IS_ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    text: str
    start_s: float
    end_s: float
    confidence: float
    is_estimated: bool
    def __init__(self, text: _Optional[str] = ..., start_s: _Optional[float] = ..., end_s: _Optional[float] = ..., confidence: _Optional[float] = ..., is_estimated: _Optional[bool] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("decode_s", "split_s", "recognise_s")
    DECODE_S_FIELD_NUMBER: _ClassVar[int]
    SPLIT_S_FIELD_NUMBER: _ClassVar[int]
    RECOGNISE_S_FIELD_NUMBER: _ClassVar[int]
    decode_s: float
    split_s: float
    recognise_s: float
    def __init__(self, decode_s: _Optional[float] = ..., split_s: _Optional[float] = ..., recognise_s: _Optional[float] = ...) -> None: ...

class TranscriptionUpdate(_message.Message):
    __slots__ = ("segment", "progress", "response")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    segment: Segment
    progress: Progress
    response: TranscriptionResponse
    def __init__(self, segment: _Optional[_Union[Segment, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., response: _Optional[_Union[TranscriptionResponse, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("decoded_s", "done_s")
    DECODED_S_FIELD_NUMBER: _ClassVar[int]
    DONE_S_FIELD_NUMBER: _ClassVar[int]
    decoded_s: float
    done_s: float
    def __init__(self, decoded_s: _Optional[float] = ..., done_s: _Optional[float] = ...) -> None: ...

class TranscriptionStats(_message.Message):
    __slots__ = ("word_count", "char_count", "speed_factor")
    WORD_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAR_COUNT_FIELD_NUMBER: _ClassVar[int]
    SPEED_FACTOR_FIELD_NUMBER: _ClassVar[int]
    word_count: int
    char_count: int
    speed_factor: float
    def __init__(self, word_count: _Optional[int] = ..., char_count: _Optional[int] = ..., speed_factor: _Optional[float] = ...) -> None: ...
