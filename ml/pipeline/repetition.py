"""Catches answers in which the model repeats itself, and asks again until one is sound."""

import re
import threading
import zlib
from dataclasses import dataclass, replace

from ml.audio.splitter import Chunk, split_at_pauses
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.recogniser import Recognise
from ml.pipeline.text_merge import join_texts
from ml.transcript import Completion, FinishReason, Status

MAX_CHARACTERS_PER_S = 30.0  # nobody says more; fast Russian speech has about 20
SPARE_CHARACTERS = 40  # so that a shout in half a second is not too much
MAX_COMPRESSION = 3.5  # bytes per compressed byte; prose has about 1.5, number tables about 2.5
MIN_COMPRESSED_CHARACTERS = 120  # shorter texts compress by chance
MIN_LOOP_CHARACTERS = 30  # «да, да, да, да» is an answer
_LOOP = re.compile(r"(.{2,80}?)\1{3,}", re.DOTALL)  # the same thing four times running


def first_repeat(text: str) -> int | None:
    """Where `text` begins to repeat itself: the end of the first round of a loop; None where there is no loop."""
    for loop in _LOOP.finditer(text + " "):  # the last round lacks the space between rounds
        if len(loop[0]) >= MIN_LOOP_CHARACTERS:
            return loop.start() + len(loop[1])
    return None


def is_repetitive(completion: Completion, duration_s: float) -> bool:
    """Whether the text cannot be what was said in `duration_s`: a loop, too little variety, or too many characters.

    A completion that stopped at the token limit counts as repetitive unless it is shorter than any loop.
    """
    text = completion.text.strip()
    if completion.finish_reason is FinishReason.LENGTH and len(text) >= MIN_LOOP_CHARACTERS:
        return True
    if len(text) > MAX_CHARACTERS_PER_S * duration_s + SPARE_CHARACTERS or first_repeat(text) is not None:
        return True
    encoded = text.encode()
    return len(text) >= MIN_COMPRESSED_CHARACTERS and len(encoded) > MAX_COMPRESSION * len(zlib.compress(encoded))


@dataclass(frozen=True)
class RepetitionGuard:
    """Recognises chunks again whose text repeats itself: in halves, then sampled; what still repeats is truncated."""

    recognise: Recognise
    options: RecognitionOptions

    def verify(self, chunk: Chunk, completion: Completion, cancelled: threading.Event) -> tuple[str, Status]:
        """The text to use for `chunk`, whose first completion is given, and how it was obtained.

        Raises DecodingCancelledError, and what the recogniser raises.
        """
        if not is_repetitive(completion, _duration_s(chunk)):
            return completion.text, Status.TRANSCRIBED
        halves = _halves(chunk)
        for options in (self.options, replace(self.options, sampled=True)):
            retries = list(self.recognise(iter(halves), cancelled, options))
            if len(retries) < len(halves) and cancelled.is_set():
                raise DecodingCancelledError
            if not any(is_repetitive(retry, _duration_s(half)) for half, retry in zip(halves, retries, strict=True)):
                return join_texts(retry.text for retry in retries), Status.RETRIED
        parts = [_cut(retry.text, _duration_s(half)) for half, retry in zip(halves, retries, strict=True)]
        return join_texts(parts), Status.FLAGGED


def _halves(chunk: Chunk) -> list[Chunk]:
    """`chunk` split again at its best pause near the middle; whole where it is too short for that."""
    target_s = max(1.0, 0.6 * _duration_s(chunk))
    return split_at_pauses(chunk.waveform, chunk.sample_rate, target_s)


def _cut(text: str, duration_s: float) -> str:
    """What comes before the first repetition, and no more than can be said."""
    limit = int(MAX_CHARACTERS_PER_S * duration_s) + SPARE_CHARACTERS
    repeat = first_repeat(text)
    return text[: min(limit, limit if repeat is None else repeat)].strip()


def _duration_s(chunk: Chunk) -> float:
    return chunk.end_s - chunk.start_s
