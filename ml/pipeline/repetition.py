"""Finds completions in which the model repeats itself, and recognises those chunks again."""

import re
import threading
import zlib
from dataclasses import dataclass, replace

from ml.audio.splitter import Chunk, split_at_pauses
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.recogniser import Recognise
from ml.pipeline.text_merge import join_words
from ml.pipeline.words import mean_confidence, words_of
from ml.transcript import Completion, FinishReason, Status, Word

MAX_CHARACTERS_PER_S = 30.0  # fast Russian speech has about 20
SPARE_CHARACTERS = 40  # so that one long word in half a second is within the limit
MAX_COMPRESSION = 3.5  # bytes per compressed byte; prose has about 1.5, number tables about 2.5
MIN_COMPRESSED_CHARACTERS = 120  # shorter texts compress by chance
MIN_LOOP_CHARACTERS = 30  # «да, да, да, да» is an answer
_LOOP = re.compile(r"(.{2,80}?)\1{3,}", re.DOTALL)  # the same four times in a row


def first_repeat(text: str) -> int | None:
    """The index at which `text` begins to repeat itself: the end of the first round of a loop; None without a loop."""
    for loop in _LOOP.finditer(text + " "):  # the last round lacks the space between rounds
        if len(loop[0]) >= MIN_LOOP_CHARACTERS:
            return loop.start() + len(loop[1])
    return None


def is_repetitive(completion: Completion, duration_s: float) -> bool:
    """Whether the text cannot be speech of `duration_s`: a loop, too little variety, or too many characters.

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
class Verified:
    """The final words of a chunk."""

    words: tuple[Word, ...]
    status: Status = Status.TRANSCRIBED
    confidence: float | None = None  # mean probability of the tokens; None where the model gives none


@dataclass(frozen=True)
class RepetitionGuard:
    """Recognises chunks again whose text repeats itself: in halves, then sampled; what still repeats is truncated."""

    recognise: Recognise
    options: RecognitionOptions

    def verify(self, chunk: Chunk, completion: Completion, cancelled: threading.Event) -> Verified:
        """The words to use for `chunk`, whose first completion is given.

        Raises DecodingCancelledError, and what the recogniser raises.
        """
        if not is_repetitive(completion, _duration_s(chunk)):
            words = words_of(completion, chunk, self.options.word_times)
            return Verified(words, Status.TRANSCRIBED, completion.confidence)
        halves = _halves(chunk)
        again = replace(self.options, again=True)
        for options in (again, replace(again, sampled=True)):
            retries = list(self.recognise(iter(halves), cancelled, options))
            if len(retries) < len(halves) and cancelled.is_set():
                raise DecodingCancelledError
            if not any(is_repetitive(retry, _duration_s(half)) for half, retry in zip(halves, retries, strict=True)):
                return self._join(halves, retries, Status.RETRIED)
        return self._join(halves, retries, Status.FLAGGED)

    def _join(self, halves: list[Chunk], retries: list[Completion], status: Status) -> Verified:
        """The words of both halves; for FLAGGED, those before the first repetition of each."""
        parts = [words_of(retry, half, self.options.word_times) for half, retry in zip(halves, retries, strict=True)]
        confidence = mean_confidence([(retry.confidence, len(retry.text)) for retry in retries])
        if status is Status.FLAGGED:
            texts = [_truncate(retry.text, _duration_s(half)) for half, retry in zip(halves, retries, strict=True)]
            parts = [_first_words(words, text) for words, text in zip(parts, texts, strict=True)]
        return Verified(join_words(parts), status, confidence)


def _halves(chunk: Chunk) -> list[Chunk]:
    """`chunk` split again at its best pause near the middle; whole where it is too short for that."""
    target_s = max(1.0, 0.6 * _duration_s(chunk))
    halves = split_at_pauses(chunk.waveform, chunk.sample_rate, target_s)
    return [replace(half, start_sample=chunk.start_sample + half.start_sample) for half in halves]


def _truncate(text: str, duration_s: float) -> str:
    """The text before the first repetition, no longer than speech of `duration_s` can be."""
    limit = int(MAX_CHARACTERS_PER_S * duration_s) + SPARE_CHARACTERS
    repeat = first_repeat(text)
    return text[: min(limit, limit if repeat is None else repeat)].strip()


def _first_words(words: tuple[Word, ...], text: str) -> tuple[Word, ...]:
    """The first of `words`, spelled as in `text`, which is their beginning and may end within a word."""
    return tuple(replace(word, text=spelling) for word, spelling in zip(words, text.split(), strict=False))


def _duration_s(chunk: Chunk) -> float:
    return chunk.end_s - chunk.start_s
