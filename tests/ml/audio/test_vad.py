"""Hum, rumble and offset count for nothing in the gate and in the cuts; a deep voice counts."""

import numpy as np
import pytest

from ml.audio.levels import LevelMeter, frame_powers
from ml.audio.splitter import PauseSplitter, split_at_pauses
from ml.audio.vad import has_speech
from ml.interfaces import SAMPLE_RATE, Waveform
from tests.ml.audio.test_splitter import cuts, speech
from tests.support import audio as media

DURATION_S = 20


def times_s(duration_s: float = DURATION_S) -> np.ndarray:
    return np.arange(int(duration_s * SAMPLE_RATE)) / SAMPLE_RATE


DISTURBANCES = {
    "50 Hz": lambda: 0.05 * np.sin(2 * np.pi * 50 * times_s()),
    "60 Hz": lambda: 0.05 * np.sin(2 * np.pi * 60 * times_s() + 1),
    "16.7 Hz that swells": lambda: 0.3 * times_s() / DURATION_S * np.sin(2 * np.pi * 16.7 * times_s()),
    "offset": lambda: np.full(DURATION_S * SAMPLE_RATE, 0.4),
    "rumble": lambda: rumble(),
}


def rumble() -> Waveform:
    """Return noise below 50 Hz, as of wind and traffic."""
    noise = np.fft.rfft(np.random.default_rng(0).standard_normal(DURATION_S * SAMPLE_RATE))
    noise[np.fft.rfftfreq(DURATION_S * SAMPLE_RATE, 1 / SAMPLE_RATE) > 50] = 0
    waveform = np.fft.irfft(noise)
    return np.asarray(0.2 * waveform / np.abs(waveform).max(), np.float32)


def quiet_speech() -> Waveform:
    """Return words of 0.01 with pauses of room noise between them."""
    waveform = 0.1 * speech(DURATION_S, seed=5).waveform
    return np.asarray(waveform + 3e-4 * np.random.default_rng(2).standard_normal(len(waveform)), np.float32)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbance_alone_is_no_speech(name: str) -> None:
    room = 1e-4 * np.random.default_rng(1).standard_normal(DURATION_S * SAMPLE_RATE)
    waveform = np.asarray(DISTURBANCES[name]() + room, np.float32)
    assert not has_speech(waveform)
    assert not any(chunk.has_speech for chunk in split_at_pauses(waveform, SAMPLE_RATE, 5))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_quiet_speech_is_found_beneath_a_disturbance(name: str) -> None:
    assert has_speech(np.asarray(0.01 * media.voice(DURATION_S) + DISTURBANCES[name](), np.float32))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_disturbance_moves_no_cut(name: str) -> None:
    waveform = quiet_speech()
    disturbed = np.asarray(waveform + DISTURBANCES[name](), np.float32)
    expected, found = (cuts(split_at_pauses(sound, SAMPLE_RATE, 5)) for sound in (waveform, disturbed))
    assert len(expected) == len(found) and np.abs(np.subtract(expected, found)).max() <= 0.03 * SAMPLE_RATE


def test_deep_voice_is_speech() -> None:
    """A fundamental of 75 Hz whose harmonics fall by 12 dB an octave, in words of 0.4 s."""
    voice = sum(np.sin(2 * np.pi * 75 * k * times_s()) / k**2 for k in range(1, 20))
    spoken = (times_s() % 1) < 0.4
    assert has_speech(np.asarray(0.02 * voice * spoken, np.float32))


def test_speech_of_a_moment_in_a_long_chunk_is_speech() -> None:
    waveform = np.zeros(30 * SAMPLE_RATE, np.float32)
    waveform[SAMPLE_RATE * 25 : SAMPLE_RATE * 25 + 2000] = media.voice(0.125)
    assert has_speech(waveform)
    assert [chunk.has_speech for chunk in split_at_pauses(waveform, SAMPLE_RATE, 10)] == [False, False, True]


@pytest.mark.parametrize("n_samples", [0, 1, 100, 800])
def test_moment_of_silence_or_sound_is_told_apart(n_samples: int) -> None:
    silence = np.zeros(n_samples, np.float32)
    sound = media.voice(0.2)[1000 : 1000 + n_samples]
    splitter = PauseSplitter(5)
    splitter.push(silence)
    assert [chunk.has_speech for chunk in splitter.finish()] == [False] * (n_samples > 0)
    assert has_speech(sound) == (n_samples >= 800)


def test_level_is_that_of_the_sound_above_100_hz() -> None:
    tone = np.asarray(0.1 * np.sin(2 * np.pi * 1000 * times_s()), np.float32)
    np.testing.assert_allclose(frame_powers(tone)[20:], 0.005, rtol=1e-3)
    hum = np.asarray(0.05 * np.sin(2 * np.pi * 50 * times_s()), np.float32)
    assert np.all(frame_powers(hum)[20:] < 0.005 * 10**-4.5)


def test_levels_do_not_depend_on_the_blocks() -> None:
    waveform = media.voice(3.7)
    meter, powers = LevelMeter(), []
    for start in range(0, len(waveform), 1234):
        powers.append(meter.push(waveform[start : start + 1234]))
    powers.append(meter.finish())
    assert np.array_equal(np.concatenate(powers), frame_powers(waveform))
