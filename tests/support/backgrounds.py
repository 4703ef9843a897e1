"""Recordings without speech: silence, noises, music, breaths. All at 16 kHz."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ml.interfaces import SAMPLE_RATE, Waveform

Random = np.random.Generator
Background = Callable[[float, Random], Waveform]
"""Seconds and a generator in, a waveform (N,) out."""

ROOM_LEVEL = 1e-3  # -60 dBFS
NOISE_LEVEL = 0.02  # -34 dBFS
CHORDS = ((220.0, 277.2, 329.6), (196.0, 246.9, 293.7), (174.6, 220.0, 261.6), (164.8, 207.7, 246.9))  # Hz
BEAT_S = 0.5


def silence(duration_s: float, random: Random) -> Waveform:
    """Nothing at all."""
    return np.zeros(_samples(duration_s), np.float32)


def room(duration_s: float, random: Random) -> Waveform:
    """A quiet room through a good microphone."""
    return _at_level(random.standard_normal(_samples(duration_s)), ROOM_LEVEL)


def white_noise(duration_s: float, random: Random) -> Waveform:
    """A bad line."""
    return _at_level(random.standard_normal(_samples(duration_s)), NOISE_LEVEL)


def pink_noise(duration_s: float, random: Random) -> Waveform:
    """Rain, wind, traffic far away: as much power in every octave."""
    return _at_level(_shaped(duration_s, random, lambda hz: 1 / np.sqrt(np.maximum(hz, 20.0))), NOISE_LEVEL)


def hum(duration_s: float, random: Random) -> Waveform:
    """The mains with its harmonics, in a room."""
    times_s = np.arange(_samples(duration_s)) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * 50 * k * times_s + random.uniform(0, 6)) / k for k in range(1, 9))
    return _at_level(np.asarray(tones), NOISE_LEVEL) + room(duration_s, random)


def knocks(duration_s: float, random: Random) -> Waveform:
    """Keys and doors: some knocks of 10 to 40 ms, in a room."""
    waveform = room(duration_s, random)
    for _ in range(int(duration_s / 2)):
        knock = random.standard_normal(_samples(0.2)) * np.exp(-np.arange(_samples(0.2)) / _samples(0.01))
        _add(waveform, knock * random.uniform(0.05, 0.3), random)
    return waveform


def breaths(duration_s: float, random: Random) -> Waveform:
    """Breaths of half a second to a second, in a room."""
    waveform = room(duration_s, random)
    for _ in range(int(duration_s / 4)):
        length_s = random.uniform(0.5, 1.0)
        sound = _shaped(length_s, random, lambda hz: ((hz > 300) & (hz < 5000)) / (1 + hz / 1500))
        _add(waveform, _at_level(sound * np.hanning(len(sound)), random.uniform(0.005, 0.02)), random)
    return waveform


def music(duration_s: float, random: Random) -> Waveform:
    """Chords of plucked strings, a bass drum and a cymbal."""
    waveform = np.zeros(_samples(duration_s), np.float32)
    times_s = np.arange(_samples(BEAT_S)) / SAMPLE_RATE
    for beat in range(int(duration_s / BEAT_S)):
        notes = CHORDS[beat // 4 % len(CHORDS)]
        strings = sum(np.sin(2 * np.pi * note * k * times_s) / k for note in notes for k in range(1, 8))
        drum = np.sin(2 * np.pi * 60 * times_s) * np.exp(-times_s / 0.08) if beat % 2 == 0 else 0
        cymbal = random.standard_normal(len(times_s)) * np.exp(-times_s / 0.03)
        start = beat * len(times_s)
        waveform[start : start + len(times_s)] += 0.3 * strings * np.exp(-times_s / 0.3) + 2 * drum + 0.3 * cymbal
    return _at_level(waveform, 3 * NOISE_LEVEL)


BACKGROUNDS: dict[str, Background] = {
    "digital silence": silence,
    "a quiet room": room,
    "white noise": white_noise,
    "pink noise": pink_noise,
    "hum": hum,
    "knocks": knocks,
    "breaths": breaths,
    "music": music,
}


def _samples(duration_s: float) -> int:
    return int(duration_s * SAMPLE_RATE)


def _at_level(waveform: npt.NDArray[np.floating], level: float) -> Waveform:
    """The waveform with a root mean square of `level`."""
    return np.asarray(waveform * (level / np.sqrt(np.mean(np.square(waveform)))), np.float32)


def _shaped(
    duration_s: float, random: Random, gain: Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]
) -> npt.NDArray[np.floating]:
    """Noise with `gain` applied to the amplitude of each frequency (Hz)."""
    spectrum = np.fft.rfft(random.standard_normal(_samples(duration_s)))
    frequencies_hz = np.fft.rfftfreq(_samples(duration_s), 1 / SAMPLE_RATE)
    shaped: npt.NDArray[np.floating] = np.fft.irfft(spectrum * gain(frequencies_hz))
    return shaped


def _add(waveform: Waveform, sound: npt.NDArray[np.floating], random: Random) -> None:
    start = int(random.integers(0, len(waveform) - len(sound)))
    waveform[start : start + len(sound)] += sound.astype(np.float32)
