"""The loop guard: answers that repeat themselves are asked for again, and never handed on as they are."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.errors import DecodingCancelledError
from ml.pipeline.repetition import RepetitionGuard, first_repeat, is_repetitive
from ml.transcript import Status, Unfinished
from tests.support.audio import voice

LOOP = "спасибо за просмотр " * 12
SOUND = "сегодня хорошая погода"


class Recogniser:
    """Answers by the length of the chunk, and counts how often it is asked."""

    def __init__(self, whole: str, part: str) -> None:
        self._whole, self._part = whole, part
        self.asked: list[float] = []

    def __call__(self, chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        for chunk in chunks:
            self.asked.append(chunk.end_s - chunk.start_s)
            yield self._whole if self.asked[-1] > 15 else self._part


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
    assert first_repeat(text) is None and not is_repetitive(text, 30.0)


def test_more_text_than_can_be_said_is_unsound() -> None:
    text = " ".join(str(number) for number in range(1000))
    assert is_repetitive(text, 30.0) and not is_repetitive(text[:500], 30.0)


def test_sound_answer_is_kept_and_nobody_is_asked_again(chunk: Chunk) -> None:
    greedy, sampled = Recogniser(LOOP, SOUND), Recogniser(LOOP, SOUND)
    assert RepetitionGuard(greedy, sampled).sound(chunk, SOUND, threading.Event()) == (SOUND, Status.TRANSCRIBED)
    assert greedy.asked == sampled.asked == []


def test_loop_is_asked_for_again_in_halves_cut_at_the_pause(chunk: Chunk) -> None:
    greedy, sampled = Recogniser(LOOP, SOUND), Recogniser(LOOP, SOUND)
    assert RepetitionGuard(greedy, sampled).sound(chunk, LOOP, threading.Event()) == (
        f"{SOUND} {SOUND}",
        Status.RETRIED,
    )
    assert greedy.asked == pytest.approx([12.25, 12.25], abs=0.3) and sampled.asked == []


def test_halves_that_loop_too_are_sampled(chunk: Chunk) -> None:
    greedy, sampled = Recogniser(LOOP, LOOP), Recogniser(LOOP, SOUND)
    assert RepetitionGuard(greedy, sampled).sound(chunk, LOOP, threading.Event()) == (
        f"{SOUND} {SOUND}",
        Status.RETRIED,
    )
    assert len(greedy.asked) == len(sampled.asked) == 2


def test_what_loops_every_time_is_cut_at_its_first_repeat_and_flagged(chunk: Chunk) -> None:
    looping = Recogniser(LOOP, LOOP)
    text, status = RepetitionGuard(looping, looping).sound(chunk, LOOP, threading.Event())
    assert status is Status.FLAGGED
    assert text == "спасибо за просмотр спасибо за просмотр"  # once for each half


def test_answer_that_stopped_at_the_token_limit_is_asked_for_again(chunk: Chunk) -> None:
    greedy, sampled = Recogniser(SOUND, SOUND), Recogniser(SOUND, SOUND)
    unfinished = Unfinished("первая половина того, что было сказано, а дальше")
    assert not is_repetitive(str(unfinished), 24.0)
    text, status = RepetitionGuard(greedy, sampled).sound(chunk, unfinished, threading.Event())
    assert (text, status) == (f"{SOUND} {SOUND}", Status.RETRIED)


def test_limit_of_a_few_tokens_is_meant() -> None:
    assert not is_repetitive(Unfinished("раз два"), 24.0)


def test_cancelled_while_asking_again_is_no_fault_of_the_recogniser(chunk: Chunk) -> None:
    cancelled = threading.Event()
    cancelled.set()

    def leave(chunks: Iterator[Chunk], cancelled: threading.Event) -> Iterator[str]:
        return iter(())

    with pytest.raises(DecodingCancelledError):
        RepetitionGuard(leave, leave).sound(chunk, LOOP, cancelled)
