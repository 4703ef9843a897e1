"""From attention to words: the best path, punctuation, and starts and ends at the pauses of the speech."""

from itertools import combinations_with_replacement, pairwise

import numpy as np
import pytest

from ml.borealis.alignment import POSITION_S, align, combine, snap_to_voice, words_of
from ml.interfaces import SAMPLE_RATE
from ml.transcript import Word
from tests.support.audio import voice

SILENCE = np.zeros(SAMPLE_RATE, np.float32)


def gain(gains: np.ndarray, bounds: list[int]) -> float:
    return float(sum(row[start:end].sum() for row, (start, end) in zip(gains, pairwise(bounds), strict=True)))


@pytest.mark.parametrize("seed", range(8))
def test_no_other_path_gains_more(seed: int) -> None:
    gains = np.random.default_rng(seed).normal(size=(4, 7))
    bounds = align(gains).tolist()
    assert bounds[0] == 0 and bounds[-1] == 7 and bounds == sorted(bounds)
    others = combinations_with_replacement(range(8), 3)
    assert gain(gains, bounds) == pytest.approx(max(gain(gains, [0, *inner, 7]) for inner in others))


def diagonal(tokens: int, step: int, blur: float = 0.1) -> np.ndarray:
    """Attention (1, tokens + 1, 50) of a head that goes on by `step` positions with each token."""
    attention = np.full((1, tokens + 1, 50), blur / 50)
    for token in range(tokens):
        attention[0, token, token * step : (token + 1) * step] = 1 / step
    attention[0, tokens, tokens * step :] = 1.0
    return attention


def test_tokens_lie_where_a_head_attends() -> None:
    assert align(combine(diagonal(5, 4), [0], 30)).tolist() == [0, 4, 8, 12, 16, 20, 30]


def test_head_that_is_a_step_late_gives_the_same_places() -> None:
    late = np.concatenate([np.full((1, 1, 50), 1 / 50), diagonal(5, 4)[:, :-1]], axis=1)
    assert align(combine(late, [1], 20))[:6].tolist() == [0, 4, 8, 12, 16, 20]
    both = np.concatenate([diagonal(5, 4), late])
    assert align(combine(both, [0, 1], 30))[:6].tolist() == [0, 4, 8, 12, 16, 20]


def test_no_token_lies_in_the_padding() -> None:
    attention = np.full((1, 4, 375), 1e-6)
    attention[0, :, 200:] = 1.0  # the model looks into the padding
    assert align(combine(attention, [0], 12)).max() == 12


def test_word_is_made_of_its_tokens_and_punctuation_takes_no_time() -> None:
    pieces = [" Что", "-то", ",", " не", " так", ".", " —"]
    words = words_of(pieces, [0.9, 0.3, 0.6, 0.5, 0.7, 1.0, 1.0, 0.2], np.array([0, 2, 5, 9, 10, 12, 20, 25]))
    assert [word.text for word in words] == ["Что-то,", "не", "так.", "—"]
    times = [(round(word.start_s / POSITION_S), round(word.end_s / POSITION_S)) for word in words]
    assert times == [(0, 5), (9, 10), (10, 12), (20, 25)]
    assert [word.confidence for word in words] == pytest.approx([0.6, 0.5, 0.85, 1.0])


def test_words_of_no_token_are_none() -> None:
    assert words_of([], [], np.array([0])) == [] and snap_to_voice([], SILENCE) == ()


def test_words_begin_and_end_with_the_voice() -> None:
    waveform = np.concatenate([SILENCE, voice(1), SILENCE, voice(1), SILENCE])  # voice from 1 to 2 s, from 3 to 4 s
    words = [Word("раз", 0.0, 1.6), Word("два", 1.6, 2.88), Word("три", 2.96, 5.0)]
    first, second, third = snap_to_voice(words, waveform)
    assert (first.start_s, first.end_s) == (pytest.approx(1, abs=0.05), 1.6)
    assert (second.start_s, second.end_s) == (1.6, pytest.approx(2, abs=0.05))
    assert (third.start_s, third.end_s) == (pytest.approx(3, abs=0.05), pytest.approx(4, abs=0.05))


@pytest.mark.parametrize("seed", range(5))
def test_snapped_words_keep_their_order_and_do_not_overlap(seed: int) -> None:
    random = np.random.default_rng(seed)
    pauses = [np.zeros(int(random.uniform(0, 0.3) * SAMPLE_RATE), np.float32) for _ in range(12)]
    waveform = np.concatenate([part for pause in pauses for part in (pause, voice(random.uniform(0.05, 0.4)))])
    bounds = np.sort(random.integers(0, len(waveform) // 1280 + 2, 30)) * POSITION_S
    words = [Word("и", float(start), float(end)) for start, end in pairwise(bounds)]
    snapped = snap_to_voice(words, waveform)
    assert all(word.start_s <= word.end_s for word in snapped)
    assert all(before.end_s <= after.start_s + 1e-9 for before, after in pairwise(snapped))
    assert len(snapped) == len(words)
