"""Catches answers in which the model repeats itself, and asks again until one is sound."""

import re
import threading
import zlib
from dataclasses import dataclass

from ml.audio.splitter import Chunk, split_at_pauses
from ml.errors import DecodingCancelledError
from ml.pipeline.recogniser import Recognise
from ml.pipeline.text_merge import join_texts
from ml.transcript import Status, Unfinished

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


def is_repetitive(text: str, duration_s: float) -> bool:
    """Whether `text` cannot be what was said in `duration_s`: a loop, too much of a muchness, or simply too much.

    Neither can an answer that stopped at the limit on tokens, unless that is so low that nobody expects more.
    """
    is_unfinished, text = isinstance(text, Unfinished), text.strip()
    if is_unfinished and len(text) >= MIN_LOOP_CHARACTERS:
        return True
    if len(text) > MAX_CHARACTERS_PER_S * duration_s + SPARE_CHARACTERS or first_repeat(text) is not None:
        return True
    encoded = text.encode()
    return len(text) >= MIN_COMPRESSED_CHARACTERS and len(encoded) > MAX_COMPRESSION * len(zlib.compress(encoded))


@dataclass(frozen=True)
class RepetitionGuard:
    """Asks again for chunks whose answer is unsound: in halves, then with `again`; what is left is cut short."""

    recognise: Recognise
    again: Recognise  # another way of asking, such as sampling

    def sound(self, chunk: Chunk, text: str, cancelled: threading.Event) -> tuple[str, Status]:
        """A sound answer to `chunk`, whose first answer was `text`, and how it was come by.

        Raises DecodingCancelledError, and what the recognisers raise.
        """
        if not is_repetitive(text, _duration_s(chunk)):
            return text, Status.TRANSCRIBED
        halves = _halves(chunk)
        for recognise in (self.recognise, self.again):
            answers = list(recognise(iter(halves), cancelled))
            if len(answers) < len(halves) and cancelled.is_set():
                raise DecodingCancelledError("Запрос отменён")
            if not any(is_repetitive(answer, _duration_s(half)) for half, answer in zip(halves, answers, strict=True)):
                return join_texts(answers), Status.RETRIED
        parts = [_cut(answer, _duration_s(half)) for half, answer in zip(halves, answers, strict=True)]
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
