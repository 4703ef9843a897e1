"""The results: completions of chunks, and the segments of a recording, which cover every second of it."""

from dataclasses import dataclass, field
from enum import Enum


class FinishReason(Enum):
    """The reason why a model stopped."""

    STOP = "stop"  # an end-of-sequence token
    LENGTH = "length"  # the limit on new tokens


@dataclass(frozen=True)
class Word:
    """A word of a text with its place in the audio."""

    text: str  # as in the text, punctuation included
    start_s: float
    end_s: float
    confidence: float | None = None  # mean probability of its tokens; None where the model gives none
    is_estimated: bool = False  # the times are a share of the voiced time, since the model gives none


@dataclass(frozen=True)
class Completion:
    """The model's text for one chunk."""

    text: str
    finish_reason: FinishReason = FinishReason.STOP
    confidence: float | None = None  # mean probability of the tokens; None where the model gives none
    words: tuple[Word, ...] = ()  # times from the beginning of the chunk; empty unless requested


class Status(Enum):
    """The origin of a segment's text."""

    TRANSCRIBED = "TRANSCRIBED"
    SILENCE = "SILENCE"  # nothing but silence or steady noise: the model did not run
    RETRIED = "RETRIED"  # the first completion repeated itself or did not end; this is a later one
    FLAGGED = "FLAGGED"  # every completion did so; this is one truncated at its first repetition


@dataclass(frozen=True)
class Segment:
    """A stretch of the recording and its text."""

    start_s: float
    end_s: float
    text: str
    status: Status = Status.TRANSCRIBED
    words: tuple[Word, ...] = ()  # of the text, times from the beginning of the recording; empty unless requested
    confidence: float | None = None  # mean probability of the tokens; None where the model gives none
    channel: int = 0  # from 1; 0 where the channels were mixed


@dataclass(frozen=True)
class StageTimes:
    """Seconds spent on each stage. Stages overlap, so that they may add up to more than the whole."""

    decode_s: float = 0.0  # waiting for decoded audio
    split_s: float = 0.0
    recognise_s: float = 0.0  # waiting for texts


@dataclass(frozen=True)
class Transcript:
    """The segments of one recording; those of each channel cover it without gap or overlap."""

    segments: tuple[Segment, ...]
    audio_duration_s: float
    warnings: tuple[str, ...] = ()  # in Russian, such as that the file is damaged and was read in part
    stages: StageTimes = field(default_factory=StageTimes)

    @property
    def text(self) -> str:
        """The texts of the segments, joined. ml/pipeline/text_merge.py makes them read as one."""
        return " ".join(segment.text for segment in self.segments if segment.text)
