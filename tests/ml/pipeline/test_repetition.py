"""The loop guard: answers that repeat themselves are asked for again, and never handed on as they are."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.interfaces import RecognitionOptions
from ml.pipeline.repetition import RepetitionGuard, first_repeat, is_repetitive
from ml.transcript import Completion, FinishReason, Status
from tests.support.audio import voice

LOOP = "спасибо за просмотр " * 12
SOUND = "сегодня хорошая погода"


class Recogniser:
    """Answers whole chunks with a loop, and halves as told; keeps the durations of greedy and of sampled requests."""

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
    return RepetitionGuard(recogniser, RecognitionOptions()).verify(chunk, completion, threading.Event())


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
        SOUND,
        "да, да, да, да",
        "два два два",
        "двадцать один двадцать два двадцать три двадцать четыре двадцать пять двадцать шесть",
        "раз два три раз два три раз два три",
    ],
)
def test_what_people_say_is_no_loop(text: str) -> None:
    assert first_repeat(text) is None and not is_repetitive(Completion(text), 30.0)


def test_more_text_than_can_be_said_is_unsound() -> None:
    text = " ".join(str(number) for number in range(1000))
    assert is_repetitive(Completion(text), 30.0) and not is_repetitive(Completion(text[:500]), 30.0)


def test_sound_answer_is_kept_and_nobody_is_asked_again(chunk: Chunk) -> None:
    recogniser = Recogniser(SOUND, SOUND)
    assert verify(recogniser, chunk, Completion(SOUND)) == (SOUND, Status.TRANSCRIBED)
    assert recogniser.durations_s == {False: [], True: []}


def test_loop_is_asked_for_again_in_halves_cut_at_the_pause(chunk: Chunk) -> None:
    recogniser = Recogniser(SOUND, SOUND)
    assert verify(recogniser, chunk, Completion(LOOP)) == (f"{SOUND} {SOUND}", Status.RETRIED)
    assert recogniser.durations_s[False] == pytest.approx([12.25, 12.25], abs=0.3)
    assert recogniser.durations_s[True] == []


def test_halves_that_loop_too_are_sampled(chunk: Chunk) -> None:
    recogniser = Recogniser(LOOP, SOUND)
    assert verify(recogniser, chunk, Completion(LOOP)) == (f"{SOUND} {SOUND}", Status.RETRIED)
    assert len(recogniser.durations_s[False]) == len(recogniser.durations_s[True]) == 2


def test_what_loops_every_time_is_cut_at_its_first_repeat_and_flagged(chunk: Chunk) -> None:
    text, status = verify(Recogniser(LOOP, LOOP), chunk, Completion(LOOP))
    assert status is Status.FLAGGED
    assert text == "спасибо за просмотр спасибо за просмотр"  # once for each half


def test_answer_that_stopped_at_the_token_limit_is_asked_for_again(chunk: Chunk) -> None:
    unfinished = Completion("первая половина того, что было сказано, а дальше", FinishReason.LENGTH)
    assert not is_repetitive(Completion(unfinished.text), 24.0)
    assert verify(Recogniser(SOUND, SOUND), chunk, unfinished) == (f"{SOUND} {SOUND}", Status.RETRIED)


def test_limit_of_a_few_tokens_is_meant() -> None:
    assert not is_repetitive(Completion("раз два", FinishReason.LENGTH), 24.0)


def test_cancelled_while_asking_again_is_no_fault_of_the_recogniser(chunk: Chunk) -> None:
    cancelled = threading.Event()
    cancelled.set()

    def leave(chunks: Iterator[Chunk], cancelled: threading.Event, options: RecognitionOptions) -> Iterator[Completion]:
        return iter(())

    with pytest.raises(DecodingCancelledError):
        RepetitionGuard(leave, RecognitionOptions()).verify(chunk, Completion(LOOP), cancelled)
