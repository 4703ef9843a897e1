"""Words of a completion: the model's times, or shares of the voiced time."""

from itertools import pairwise

import numpy as np
import pytest

from ml.audio.splitter import Chunk
from ml.interfaces import SAMPLE_RATE
from ml.pipeline.words import words_of
from ml.transcript import Completion, Word
from tests.support.audio import voice

SILENT = np.zeros(2 * SAMPLE_RATE, np.float32)


@pytest.fixture
def chunk() -> Chunk:
    """Two seconds of silence, three of speech, two of silence, from 10 s on."""
    return Chunk(np.concatenate([SILENT, voice(3), SILENT]), 10 * SAMPLE_RATE)


def test_estimated_words_lie_in_the_voiced_time_alone(chunk: Chunk) -> None:
    words = words_of(Completion("раз  два\nтри"), chunk, with_times=True)
    assert [word.text for word in words] == ["раз", "два", "три"] and all(word.is_estimated for word in words)
    assert words[0].start_s == pytest.approx(12, abs=0.2) and words[-1].end_s == pytest.approx(15, abs=0.2)
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(words))


def test_longer_word_gets_a_larger_share(chunk: Chunk) -> None:
    short, long = words_of(Completion("я предпочитаю"), chunk, with_times=True)
    assert long.end_s - long.start_s > 3 * (short.end_s - short.start_s)


@pytest.mark.parametrize("text", ["раз", "раз два", "раз два три четыре", "я предпочитаю ехать туда", "а " * 60])
def test_no_estimated_word_stretches_over_a_pause(text: str) -> None:
    parts = [SILENT, voice(1.7), SILENT, voice(0.9, seed=1), SILENT[:8000], voice(2.3, seed=2), SILENT]
    chunk = Chunk(np.concatenate(parts), 0)
    words = words_of(Completion(text), chunk, with_times=True)
    assert len(words) == len(text.split())
    for start_s, end_s in ((0, 2), (3.7, 5.7), (6.6, 7.1), (9.4, 11.4)):
        assert not [word for word in words if word.start_s < end_s - 0.1 and word.end_s > start_s + 0.1]
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(words))


def test_pause_is_where_a_word_ends_and_the_next_begins() -> None:
    chunk = Chunk(np.concatenate([voice(2), SILENT, voice(1.5)]), 0)
    first, second, third = words_of(Completion("слово слово слово"), chunk, with_times=True)
    assert (second.end_s, third.start_s) == (pytest.approx(2, abs=0.1), pytest.approx(4, abs=0.1))
    assert first.end_s == pytest.approx(second.start_s) == pytest.approx(1, abs=0.1)


def test_words_of_the_model_are_divided_as_the_text_is(chunk: Chunk) -> None:
    parts = (Word(" что", 2.0, 2.2, 0.9), Word("-то", 2.2, 2.5, 0.3), Word("не так", 2.6, 3.0, 0.5))
    first, second, third = words_of(Completion("что-то не так", words=parts), chunk, with_times=True)
    assert (first.text, first.start_s, first.end_s) == ("что-то", 12.0, 12.5)
    assert 0.3 < (first.confidence or 0) < 0.9
    assert (second.start_s, third.end_s) == (12.6, 13.0) and not third.is_estimated


def test_words_that_spell_another_text_are_replaced_by_estimates(chunk: Chunk) -> None:
    (word,) = words_of(Completion("раз", words=(Word("два", 0.0, 1.0),)), chunk, with_times=True)
    assert word.text == "раз" and word.is_estimated


def test_times_of_the_model_stay_within_the_chunk(chunk: Chunk) -> None:
    (word,) = words_of(Completion("раз", words=(Word("раз", 6.5, 8.0),)), chunk, with_times=True)
    assert (word.start_s, word.end_s) == (16.5, 17.0)


@pytest.mark.parametrize("n_samples", [1, 100, 500])
def test_words_of_the_shortest_chunks_have_times(n_samples: int) -> None:
    words = words_of(Completion("раз два"), Chunk(np.full(n_samples, 0.1, np.float32), 0), with_times=True)
    assert len(words) == 2 and all(0 <= word.start_s <= word.end_s <= n_samples / SAMPLE_RATE for word in words)
