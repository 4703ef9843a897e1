"""Tokens with their times become the words of the text."""

from dataclasses import dataclass
from math import log

import pytest

from ml.onnx.words import words_of


@dataclass
class Answer:
    """What onnx-asr answers."""

    text: str
    tokens: list[str] | None
    timestamps: list[float] | None
    logprobs: list[float] | None = None


def test_a_word_lasts_from_its_first_token_to_shortly_after_its_last() -> None:
    answer = Answer("из-за снега", [" из", "-", "за", " сне", "га"], [0.4, 0.5, 0.6, 1.0, 1.2])
    assert [(word.text, word.start_s, round(word.end_s, 2)) for word in words_of(answer, 2.0)] == [
        ("из-за", 0.4, 0.68),
        ("снега", 1.0, 1.28),
    ]


def test_a_word_ends_where_the_next_begins_or_the_chunk_ends() -> None:
    answer = Answer("а о", [" а", " о"], [0.40, 0.44])
    assert [(word.start_s, word.end_s) for word in words_of(answer, 0.5)] == [(0.40, 0.44), (0.44, 0.5)]


def test_letters_are_put_together_and_spaces_before_punctuation_left_out() -> None:
    answer = Answer("да, нет.", ["д", "а", " ", ",", " ", "н", "е", "т", " ", "."], [index / 10 for index in range(10)])
    assert [(word.text, word.start_s) for word in words_of(answer, 2.0)] == [("да,", 0.0), ("нет.", 0.5)]


def test_a_confidence_is_the_mean_over_the_tokens() -> None:
    (word,) = words_of(Answer("слово", [" сло", "во"], [0.0, 0.2], [log(0.9), log(0.5)]), 1.0)
    assert word.confidence == pytest.approx(0.7)


def test_a_token_beyond_the_chunk_ends_with_it() -> None:
    (word,) = words_of(Answer("а", [" а"], [1.04]), 1.0)
    assert (word.start_s, word.end_s) == (1.0, 1.0)


def test_a_model_without_times_gives_no_words() -> None:
    assert words_of(Answer("а", None, None), 1.0) == ()
    assert words_of(Answer("", [], []), 1.0) == ()
