"""Aligned pieces of a text become its words."""

from typing import Any

from ml.whisper.words import words_of


def piece(word: str, start: float, end: float, probability: float = 0.5, tokens: int = 1) -> dict[str, Any]:
    return {"word": word, "start": start, "end": end, "probability": probability, "tokens": [0] * tokens}


def test_punctuation_belongs_to_its_word_and_takes_no_part_in_its_times() -> None:
    words = words_of([piece(" Скажите", 0.0, 0.5), piece(",", 0.5, 0.9), piece(" как", 0.9, 1.2), piece("?", 1.2, 2)])
    assert [(word.text, word.start_s, word.end_s) for word in words] == [("Скажите,", 0.0, 0.5), ("как?", 0.9, 1.2)]


def test_pieces_without_a_space_between_them_are_one_word() -> None:
    words = words_of([piece(" из", 0.0, 0.2), piece("-", 0.2, 0.3), piece("за", 0.3, 0.5)])
    assert [(word.text, word.start_s, word.end_s) for word in words] == [("из-за", 0.0, 0.5)]


def test_a_quotation_mark_before_a_word_belongs_to_it() -> None:
    words = words_of([piece(" «", 0.0, 0.4), piece("Волга", 0.4, 0.8), piece("»", 0.8, 1.0)])
    assert [(word.text, word.start_s, word.end_s) for word in words] == [("«Волга»", 0.4, 0.8)]


def test_a_confidence_is_the_mean_over_the_tokens() -> None:
    (word,) = words_of([piece(" слово", 0, 1, probability=0.9, tokens=3), piece(".", 1, 1, probability=0.5)])
    assert word.confidence is not None
    assert abs(word.confidence - (3 * 0.9 + 0.5) / 4) < 1e-9


def test_nothing_said_has_no_words() -> None:
    assert words_of([]) == ()
    assert words_of([piece(" ", 0, 1)]) == ()
