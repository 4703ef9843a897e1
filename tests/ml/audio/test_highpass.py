"""The filter takes off what is below its cutoff, nothing above it, and does not depend on what comes later."""

import numpy as np
import pytest

from ml.audio.highpass import HighPass
from ml.interfaces import SAMPLE_RATE
from tests.support import audio as media

BLOCK = SAMPLE_RATE


def input_filter() -> HighPass:
    return HighPass(20, 2, SAMPLE_RATE, 40)


def gain_db(frequency_hz: float, high_pass: HighPass) -> float:
    """Return the gain at one frequency, from the impulse response."""
    impulse = np.zeros((1, 4 * SAMPLE_RATE))
    impulse[0, 1] = 1  # not the first sample: the filter takes that for the level before the recording
    response = high_pass.push(impulse)[0]
    times_s = np.arange(len(response)) / SAMPLE_RATE
    return float(20 * np.log10(np.abs(np.exp(-2j * np.pi * frequency_hz * times_s) @ response)))


@pytest.mark.parametrize("frequency_hz", [60, 80, 120, 250, 1000, 7500])
def test_speech_is_left_alone(frequency_hz: float) -> None:
    assert abs(gain_db(frequency_hz, input_filter())) < 0.06


@pytest.mark.parametrize(("frequency_hz", "at_most_db"), [(1, -50), (5, -24), (10, -12), (20, -2.9)])
def test_infrasound_is_taken_off(frequency_hz: float, at_most_db: float) -> None:
    assert gain_db(frequency_hz, input_filter()) < at_most_db


@pytest.mark.parametrize("order", [2, 4, 8])
def test_slope_is_six_decibels_an_octave_for_each_order(order: int) -> None:
    octaves = [gain_db(frequency_hz, HighPass(100, order, SAMPLE_RATE, 160)) for frequency_hz in (12.5, 25)]
    assert octaves[1] - octaves[0] == pytest.approx(6.02 * order, abs=0.3)


def test_offset_is_silence_from_the_first_sample() -> None:
    assert np.abs(input_filter().push(np.full((2, 3 * BLOCK), 0.4))).max() < 1e-9


def test_digital_silence_stays_exactly_zero() -> None:
    assert not input_filter().push(np.zeros((1, BLOCK))).any()


def test_later_samples_change_nothing_before_them() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 3 * BLOCK))
    louder = samples.copy()
    louder[:, 20_001:] *= 1000
    assert np.array_equal(input_filter().push(samples)[:, :20_001], input_filter().push(louder)[:, :20_001])


def test_blocks_are_filtered_as_the_whole_is() -> None:
    samples = media.voice(3.5)[None]
    whole, by_block = input_filter().push(samples), input_filter()
    blocks = [by_block.push(samples[:, start : start + BLOCK]) for start in range(0, samples.shape[1], BLOCK)]
    assert np.abs(np.concatenate(blocks, axis=1) - whole).max() < 1e-10


def test_channels_are_filtered_apart() -> None:
    samples = np.stack([media.voice(2, seed=1), media.voice(2, seed=2)])
    apart = [input_filter().push(channel[None])[0] for channel in samples]
    assert np.abs(input_filter().push(samples) - np.stack(apart)).max() < 1e-10


def test_filter_equals_its_difference_equation() -> None:
    """A biquad at 1000 Hz, Q 0.707, written out sample by sample."""
    samples = np.random.default_rng(1).standard_normal(500)
    samples[0] = 0
    angle = 2 * np.pi * 1000 / SAMPLE_RATE
    alpha = np.sin(angle) / 2**0.5
    b = np.array([1, -2, 1]) * (1 + np.cos(angle)) / 2 / (1 + alpha)
    a = np.array([-2 * np.cos(angle), 1 - alpha]) / (1 + alpha)
    expected = np.zeros(502)
    padded = np.concatenate([np.zeros(2), samples])
    for n in range(2, 502):
        expected[n] = b @ padded[n - 2 : n + 1][::-1] - a @ expected[n - 2 : n][::-1]
    np.testing.assert_allclose(HighPass(1000, 2, SAMPLE_RATE, 160).push(samples[None])[0], expected[2:], atol=1e-12)
