"""Every channel counts in the mix, and none cancels another."""

import numpy as np
import pytest

from ml.audio.mixer import Mixer
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.support import audio as media

DURATION_S = 5


def mix(channels: list[Waveform]) -> tuple[Waveform, bool]:
    """Return the mix of channels (n,), and whether one was inverted."""
    samples = np.stack([np.round(channel * 32767).astype(np.int16) for channel in channels])
    mixer = Mixer()
    blocks = [mixer.mix(samples[:, at : at + SAMPLE_RATE]) for at in range(0, samples.shape[1], SAMPLE_RATE)]
    return np.concatenate(blocks), mixer.has_inverted


def noise(seed: int, level: float = 0.1) -> Waveform:
    return np.asarray(level * np.random.default_rng(seed).standard_normal(DURATION_S * SAMPLE_RATE), np.float32)


VOICE, OTHER = media.voice(DURATION_S, seed=1), media.voice(DURATION_S, seed=2)
SILENCE = np.zeros_like(VOICE)
HUM = np.asarray(0.05 * np.sin(2 * np.pi * 50 * np.arange(len(VOICE)) / SAMPLE_RATE), np.float32)


def test_one_channel_is_left_as_it_is() -> None:
    assert np.abs(mix([VOICE])[0] - VOICE).max() < 1e-4


@pytest.mark.parametrize("other", [VOICE, SILENCE, noise(0)])
def test_two_channels_become_their_mean(other: Waveform) -> None:
    mixed, has_inverted = mix([VOICE, other])
    assert np.abs(mixed - (VOICE + other) / 2).max() < 1e-3 and not has_inverted


@pytest.mark.parametrize(("channel", "n_channels"), [(0, 1), (2, 3), (3, 6), (5, 8), (0, 64), (63, 64)])
def test_sound_in_one_of_many_channels_keeps_its_level(channel: int, n_channels: int) -> None:
    channels = [SILENCE] * n_channels
    channels[channel] = VOICE
    mixed, has_inverted = mix(channels)
    assert media.similarity(mixed, VOICE) > 0.999 and not has_inverted
    assert np.std(mixed) >= 0.49 * np.std(VOICE)


def test_many_equal_channels_do_not_clip() -> None:
    loud = VOICE / np.abs(VOICE).max()
    assert np.abs(mix([loud] * 6)[0]).max() <= 1


@pytest.mark.parametrize("level", [1.0, 0.8, 0.3])
def test_channel_in_antiphase_does_not_cancel_the_other(level: float) -> None:
    mixed, has_inverted = mix([VOICE, -level * VOICE])
    assert has_inverted
    assert np.abs(mixed - VOICE * (1 + level) / 2).max() < 1e-3


@pytest.mark.parametrize("disturbance", [HUM, np.full_like(VOICE, 0.05), noise(3, level=0.005)])
def test_what_is_in_phase_below_the_speech_does_not_hide_its_antiphase(disturbance: Waveform) -> None:
    mixed, has_inverted = mix([VOICE + disturbance, disturbance - VOICE])
    assert has_inverted and max(media.similarity(mixed, VOICE), media.similarity(-mixed, VOICE)) > 0.9


def test_pair_in_antiphase_is_found_beside_louder_channels() -> None:
    mixed, has_inverted = mix([OTHER * 2, VOICE, -VOICE])
    assert media.similarity(mixed - OTHER * 2 / 3, VOICE) > 0.99 and has_inverted


def test_antiphase_that_begins_later_is_handled_from_then_on_without_a_click() -> None:
    late = np.concatenate([VOICE[: 2 * SAMPLE_RATE], -VOICE[2 * SAMPLE_RATE :]])
    mixed, has_inverted = mix([VOICE, late])
    assert has_inverted and media.similarity(mixed, VOICE) > 0.98
    assert np.abs(np.diff(mixed)).max() <= 1.05 * np.abs(np.diff(VOICE)).max()


def test_two_speakers_on_two_channels_are_both_kept_and_nothing_is_inverted() -> None:
    talk = np.arange(len(VOICE)) // (SAMPLE_RATE // 2) % 2
    mixed, has_inverted = mix([VOICE * talk, OTHER * (1 - talk)])
    assert not has_inverted
    assert np.abs(mixed - (VOICE * talk + OTHER * (1 - talk)) / 2).max() < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_channels_are_not_inverted(seed: int) -> None:
    assert not mix([noise(seed), noise(seed + 100), media.voice(DURATION_S, seed)])[1]


def test_block_of_a_sample_is_mixed() -> None:
    assert Mixer().mix(np.array([[100], [300]], np.int16)) == pytest.approx([200 / 32768])
