"""The repetition guard: chunks whose text repeats itself are recognised again, and no repetition is returned."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.repetition import RepetitionGuard, first_repeat, is_repetitive
from ml.pipeline.words import text_of
from ml.transcript import Completion, FinishReason, Status
from tests.support.audio import voice

LOOP = "спасибо за просмотр " * 12
GOOD = "сегодня хорошая погода"


class Recogniser:
    """Answers greedy and sampled requests with these texts; keeps the durations of their chunks."""

    def __init__(self, greedy: str, sampled: str) -> None:
        self._texts = {False: greedy, True: sampled}
        self.durations_s: dict[bool, list[float]] = {False: [], True: []}  # by whether it was sampled

    def __call__(
        self, chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        for chunk in chunks:
            self.durations_s[options.sampled].append(chunk.end_s - chunk.start_s)
            yield Completion(self._texts[options.sampled])


def verify(recogniser: Recogniser, chunk: Chunk, completion: Completion) -> tuple[str, Status]:
    verified = RepetitionGuard(recogniser, RecognitionOptions()).verify(chunk, completion, threading.Event())
    return text_of(verified.words), verified.status


@pytest.fixture
def chunk() -> Chunk:
    quiet = np.zeros(8000, np.float32)
    return Chunk(np.concatenate([voice(12), quiet, voice(12)]), 0)


@pytest.mark.parametrize("text", [LOOP, LOOP + "за", "начало речи " + "и так далее, " * 9, "ааааааааааа" * 20])
def test_loop_is_found_where_its_second_round_begins(text: str) -> None:
    repeat = first_repeat(text)
    assert repeat is not None
    assert first_repeat(text[:repeat]) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD,
        "да, да, да, да",
        "два два два",
        "двадцать один двадцать два двадцать три двадцать четыре двадцать пять двадцать шесть",
        "раз два три раз два три раз два три",
    ],
)
def test_ordinary_speech_is_no_loop(text: str) -> None:
    assert first_repeat(text) is None and not is_repetitive(Completion(text), 30.0)


def test_more_text_than_fits_the_duration_is_repetitive() -> None:
    text = " ".join(str(number) for number in range(1000))
    assert is_repetitive(Completion(text), 30.0) and not is_repetitive(Completion(text[:500]), 30.0)


def test_good_completion_is_kept_and_nothing_is_recognised_again(chunk: Chunk) -> None:
    recogniser = Recogniser(GOOD, GOOD)
    assert verify(recogniser, chunk, Completion(GOOD)) == (GOOD, Status.TRANSCRIBED)
    assert recogniser.durations_s == {False: [], True: []}


def test_loop_is_recognised_again_in_halves_cut_at_the_pause(chunk: Chunk) -> None:
    recogniser = Recogniser(GOOD, GOOD)
    assert verify(recogniser, chunk, Completion(LOOP)) == (f"{GOOD} {GOOD}", Status.RETRIED)
    assert recogniser.durations_s[False] == pytest.approx([12.25, 12.25], abs=0.3)
    assert recogniser.durations_s[True] == []


def test_halves_that_loop_too_are_sampled(chunk: Chunk) -> None:
    recogniser = Recogniser(LOOP, GOOD)
    assert verify(recogniser, chunk, Completion(LOOP)) == (f"{GOOD} {GOOD}", Status.RETRIED)
    assert len(recogniser.durations_s[False]) == len(recogniser.durations_s[True]) == 2


def test_text_that_loops_every_time_is_truncated_at_its_first_repeat_and_flagged(chunk: Chunk) -> None:
    text, status = verify(Recogniser(LOOP, LOOP), chunk, Completion(LOOP))
    assert status is Status.FLAGGED
    assert text == "спасибо за просмотр спасибо за просмотр"  # once for each half


def test_completion_that_stopped_at_the_token_limit_is_recognised_again(chunk: Chunk) -> None:
    unfinished = Completion("первая половина того, что было сказано, а дальше", FinishReason.LENGTH)
    assert not is_repetitive(Completion(unfinished.text), 24.0)
    assert verify(Recogniser(GOOD, GOOD), chunk, unfinished) == (f"{GOOD} {GOOD}", Status.RETRIED)


def test_short_text_at_the_token_limit_is_kept() -> None:
    assert not is_repetitive(Completion("раз два", FinishReason.LENGTH), 24.0)


def test_cancellation_during_a_retry_is_reported_as_cancelled(chunk: Chunk) -> None:
    cancelled = threading.Event()
    cancelled.set()

    def answer_nothing(
        chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions
    ) -> Iterator[Completion]:
        return iter(())

    with pytest.raises(DecodingCancelledError):
        RepetitionGuard(answer_nothing, RecognitionOptions()).verify(chunk, Completion(LOOP), cancelled)
