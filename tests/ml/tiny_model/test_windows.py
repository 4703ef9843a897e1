"""The tiny model's training windows: labels are where the speech is."""

import numpy as np
import pytest
import torch

from ml.tiny_model.corpus import Pool
from ml.tiny_model.mel import from_bytes, mel_power, to_bytes, whisper_scale
from ml.tiny_model.windows import IGNORED, WindowMaker

WORD_IDS = [10, 11, 12]
END_ID = 9


@pytest.fixture
def pool() -> Pool:
    """One utterance of one second: word 1 in frames 10-40, word 2 in frames 50-90."""
    frames = np.zeros((100, 128), np.uint8)
    frames[10:40], frames[50:90] = 180, 200
    words = np.array([[1, 10, 40], [2, 50, 90]])
    phonemes = np.where(frames[:, 0] > 0, 7, 0).astype(np.uint8)
    return Pool(frames, phonemes, np.array([[0, 100, 0, 2]]), words, np.array([0]))


def maker(pool: Pool) -> WindowMaker:
    result = WindowMaker([pool], [1.0], WORD_IDS, END_ID, seed=3)
    result.strength = 0.0
    return result


def test_text_of_a_window_is_its_words_and_an_end(pool: Pool) -> None:
    batch = maker(pool).batch(8, 600, single=1.0)
    assert batch.features.shape == (8, 128, 600)
    texts = {tuple(row[row != IGNORED].tolist()) for row in batch.texts}
    assert texts <= {(11, 12, END_ID), (END_ID,)}


def test_word_labels_are_on_the_speech(pool: Pool) -> None:
    batch = maker(pool).batch(8, 600, single=1.0)
    for features, current in zip(batch.features, batch.words[0], strict=True):
        if current.any():
            loud = features.mean(0).reshape(-1, 8)[:, 3] > features.mean() + 0.1
            assert (loud == (current > 0)).float().mean() > 0.97


def test_word_labels_give_the_next_word_and_the_last_two(pool: Pool) -> None:
    words = maker(pool).batch(8, 600, single=1.0).words
    assert (words == 3).any()
    for current, upcoming, last, second in words.transpose(0, 1):
        first_word, second_word = current == 2, current == 3
        assert (upcoming[first_word] == 3).all() and (second[first_word] == 0).all()
        assert (second[second_word] == 2).all() and (upcoming[second_word] == 0).all()
        assert torch.equal(last[current > 0], current[current > 0])


def test_the_same_seed_draws_the_same_windows(pool: Pool) -> None:
    one, two = (maker(pool).batch(4, 600, single=0.5) for _ in range(2))
    assert torch.equal(one.features, two.features) and torch.equal(one.texts, two.texts)


def test_stored_mel_power_comes_back_within_half_a_decibel() -> None:
    tone = torch.sin(torch.arange(16_000) * 0.3) * 0.2
    power = mel_power(tone).clamp(min=1e-10, max=1e3)
    back = from_bytes(to_bytes(power)).clamp(min=1e-10)
    assert (10 * (back.log10() - power.log10())).abs().max() < 0.5


def test_the_training_scale_is_the_models_own() -> None:
    from ml.borealis.features import LogMel

    waveform = torch.from_numpy(np.random.default_rng(1).normal(0, 0.05, 480_000).astype(np.float32))
    ours = whisper_scale(mel_power(waveform)).T
    served = LogMel(torch.device("cpu"))(waveform[None])[0]
    assert torch.allclose(ours, served, atol=1e-4)
