"""Whisper base on both sides of a cut within a sentence: the two texts read as the one sentence that was said."""

import pytest

from ml.engine.engine import Engine
from ml.interfaces import SAMPLE_RATE
from ml.manifest import normalise
from ml.pipeline.text_merge import join_words
from ml.pipeline.words import text_of
from ml.transcript import Word
from tests.support.whisper import first_word, free_text, spoken_words, texts

pytestmark = pytest.mark.speech
HANG_LIMIT_S = 300.0


def recognise_halves(engine: Engine, sentence: int, words_before: int, until: int) -> tuple[str, str]:
    """The answers to the sentences [sentence, until) of free text, cut after the first `words_before` words."""
    words, first_said, after_said = spoken_words(), first_word(sentence), first_word(until)
    cut = first_said + words_before
    start_s, end_s = words[first_said][1] - 0.1, words[after_said - 1][2] + 0.1
    cut_s = (words[cut - 1][2] + words[cut][1]) / 2
    first, middle, last = (int(time_s * SAMPLE_RATE) for time_s in (start_s, cut_s, end_s))
    futures = [engine.submit(part) for part in (free_text()[first:middle], free_text()[middle:last])]
    before, after = (future.result(HANG_LIMIT_S).text for future in futures)
    return before, after


def joined(*answers: str) -> str:
    return text_of(join_words([Word(word, 0, 1) for word in answer.split()] for answer in answers))


@pytest.mark.parametrize(("sentence", "words_before", "until"), [(2, 4, 3), (4, 3, 6), (4, 4, 6), (4, 11, 8)])
def test_half_sentences_read_as_one_and_lose_no_word(
    engine: Engine, sentence: int, words_before: int, until: int
) -> None:
    answers = recognise_halves(engine, sentence, words_before, until)
    assert joined(*answers) == " ".join(texts()[sentence:until])


def test_half_a_sentence_in_doubt_loses_at_most_its_capital_letter(engine: Engine) -> None:
    answers = recognise_halves(engine, 6, 4, 8)  # beam search prefers the small letter
    assert joined(*answers) == "мы" + " ".join(texts()[6:8]).removeprefix("Мы")


def test_a_word_that_is_no_name_loses_the_capital_letter_that_the_model_gives_it_at_a_cut(engine: Engine) -> None:
    before, after = recognise_halves(engine, 6, 9, 8)  # … с друзьями. Вечером | мы пойдем в театр.
    assert before.endswith("Вечером") and after.startswith("Мы пойдем в театр")
    assert "Вечером мы пойдем в театр" in joined(before, after)


@pytest.mark.parametrize(("sentence", "words_before"), [(0, 3), (1, 3)])
def test_a_sentence_goes_on_after_the_ellipsis_that_the_model_ends_a_half_with(
    engine: Engine, sentence: int, words_before: int
) -> None:
    before, after = recognise_halves(engine, sentence, words_before, sentence + 1)
    assert before.endswith("...") and after[0].islower()
    assert joined(before, after) == f"{before} {after}"
    assert normalise(joined(before, after)) == normalise(texts()[sentence])
