"""What comes out: segments that account for every second of a recording, and the text they join to."""

from dataclasses import dataclass, field
from enum import Enum


class FinishReason(Enum):
    """Why a model stopped."""

    STOP = "stop"  # an end-of-sequence token
    LENGTH = "length"  # the limit on new tokens


@dataclass(frozen=True)
class Word:
    """A word of a text with its place in the audio."""

    text: str  # as in the text, punctuation included
    start_s: float
    end_s: float
    confidence: float | None = None  # mean probability of its tokens; None where the model gives none
    is_estimated: bool = False  # the times are a share of the speech, since the model gives none


@dataclass(frozen=True)
class Completion:
    """What a model makes of one chunk."""

    text: str
    finish_reason: FinishReason = FinishReason.STOP
    confidence: float | None = None  # mean probability of the tokens; None where the model gives none
    words: tuple[Word, ...] = ()  # times from the beginning of the chunk; empty unless they were asked for


class Status(Enum):
    """How a segment came by its text."""

    TRANSCRIBED = "TRANSCRIBED"
    SILENCE = "SILENCE"  # nothing but silence or steady noise: the model was not asked
    RETRIED = "RETRIED"  # the first answer repeated itself or did not end; this is a later one
    FLAGGED = "FLAGGED"  # so did every answer; this is one cut at its first repetition


@dataclass(frozen=True)
class Segment:
    """A stretch of the recording and what is said in it."""

    start_s: float
    end_s: float
    text: str
    status: Status = Status.TRANSCRIBED


@dataclass(frozen=True)
class StageTimes:
    """Seconds spent on each stage. Stages overlap, so that they may add up to more than the whole."""

    decode_s: float = 0.0  # waiting for decoded audio
    split_s: float = 0.0
    recognise_s: float = 0.0  # waiting for texts


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording. The segments cover it without gap or overlap."""

    segments: tuple[Segment, ...]
    audio_duration_s: float
    warnings: tuple[str, ...] = ()  # for a person, such as "the file is damaged: what could be read was transcribed"
    stages: StageTimes = field(default_factory=StageTimes)

    @property
    def text(self) -> str:
        """The segments' texts, joined; those in which nothing is said leave no trace. See ml/pipeline/text_merge.py."""
        return " ".join(segment.text for segment in self.segments if segment.text)
