"""Augment speech in the mel power domain as vocal tracts, rooms, lines and microphones change it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ml.tiny_model.mel import mel_power

Floats = npt.NDArray[np.float32]
Random = np.random.Generator

MELS = 128
_NOISE_S = 12  # seconds in one noise of the bank


def _warp_matrices() -> list[Floats]:
    """Matrices (128, 128) that shift a spectrum up or down by up to 16 %, as another vocal tract does."""
    matrices = []
    for factor in np.linspace(-0.16, 0.16, 33):
        source = np.arange(MELS) * (1 - factor * _warped_share())
        low = np.clip(source.astype(int), 0, MELS - 2)
        share = np.clip(source - low, 0, 1)
        matrix = np.zeros((MELS, MELS), np.float32)
        matrix[low, np.arange(MELS)] += 1 - share
        matrix[low + 1, np.arange(MELS)] += share
        matrices.append(matrix)
    return matrices


def _warped_share() -> Floats:
    """Share of the warp in each bin: on the mel axis a frequency factor is a shift that flattens out."""
    share = np.minimum(1.0, 0.45 + 0.55 * (1 - np.arange(MELS) / MELS))
    return np.asarray(share, np.float32)


_WARPS = _warp_matrices()


def warp(power: Floats, random: Random, strength: float) -> Floats:
    """Change the vocal tract of frames (T, 128), three times out of five."""
    if random.random() >= 0.6 * strength:
        return power
    matrix = torch.from_numpy(_WARPS[int(random.integers(len(_WARPS)))])
    return np.asarray((torch.from_numpy(power) @ matrix).numpy())


def colour(power: Floats, random: Random) -> None:
    """Give the window (T, 128) the spectral colour of a microphone and, sometimes, of a narrow line."""
    bins = np.arange(MELS) / MELS
    gain_db = np.zeros(MELS)
    if random.random() < 0.7:
        gain_db += random.normal(0, 8) * (bins - 0.5)
        for wave in (1, 2, 3, 5):
            gain_db += random.normal(0, 3) * np.cos(np.pi * wave * bins + random.uniform(0, 6.3))
    if random.random() < 0.25:
        gain_db -= np.clip((np.arange(MELS) - random.integers(70, 126)) * random.uniform(1, 20), 0, 80)
    if random.random() < 0.12:
        gain_db -= np.clip((random.integers(3, 14) - np.arange(MELS)) * random.uniform(1, 6), 0, 50)
    power *= (10 ** (gain_db / 10)).astype(np.float32)


def set_level(power: Floats, random: Random) -> None:
    """Scale the window to a random level, mostly that of a normal recording; digital silence stays."""
    loudest = float(power.max())
    if loudest > 0:
        power *= np.float32(10 ** random.normal(0.9, 0.8) / loudest)


def smear(power: torch.Tensor, random: Random, strength: float) -> torch.Tensor:
    """Add reverberation of 0.1-0.7 s to a fifth of the windows (B, T, 128)."""
    rows = np.flatnonzero(random.random(len(power)) < 0.2 * strength)
    if len(rows) == 0:
        return power
    ringing_s = random.uniform(0.1, 0.7, len(rows))
    decay = torch.tensor(10 ** (-0.06 / ringing_s), dtype=torch.float32)[:, None]  # 60 dB in ringing_s, per frame
    wet = torch.tensor(random.uniform(0.05, 0.4, len(rows)), dtype=torch.float32)[:, None]
    dry, tail = power[rows], torch.zeros(len(rows), MELS)
    result = dry.clone()
    for frame in range(1, power.shape[1]):
        tail = (tail + dry[:, frame - 1]) * decay
        result[:, frame] += tail * wet * (1 - decay)
    power[rows] = result
    return power


def mask(features: torch.Tensor, random: Random, strength: float) -> torch.Tensor:
    """Mask bands and moments of half of the windows' features (B, T, 128)."""
    for row in np.flatnonzero(random.random(len(features)) < 0.5 * strength):
        low = features[row].min()
        for _ in range(int(random.integers(1, 3))):
            width, start = int(random.integers(1, 14)), int(random.integers(0, MELS - 14))
            features[row, :, start : start + width] = low
        for _ in range(int(random.integers(0, 1 + features.shape[1] // 200))):
            width, start = int(random.integers(1, 7)), int(random.integers(0, features.shape[1] - 7))
            features[row, start : start + width] = low
    return features


def noise_bank(random: Random) -> list[Floats]:
    """Mel power (1200, 128) of noises with mean power 1: hiss, rumble, hum, clicks, tones, knocks."""
    samples = _NOISE_S * 16_000
    time_s = np.arange(samples) / 16_000
    waveforms: list[npt.NDArray[np.float64]] = []
    for slope in (0.0, 0.0, 0.5, 0.5, 0.8, 1.0, 1.0, 1.3):  # white, pink, brown
        spectrum = np.fft.rfft(random.normal(0, 1, samples))
        frequency = np.maximum(np.arange(len(spectrum)) / len(spectrum), 0.002)
        waveforms.append(np.fft.irfft(spectrum * frequency**-slope))
        if slope in (0.5, 1.0):  # once more, swelling and fading
            waveforms.append(waveforms[-1] * (1 + 0.9 * np.sin(6.28 * random.uniform(0.1, 3) * time_s)))
    for mains in (50, 60, 100):
        hum = sum(np.sin(6.2832 * mains * k * time_s + k) / k ** random.uniform(0.3, 1.5) for k in range(1, 30))
        waveforms.append(np.asarray(hum) + random.normal(0, 0.02, samples))
    for _ in range(3):
        chord = sum(np.sin(6.2832 * random.uniform(80, 3000) * time_s) for _ in range(3))
        waveforms.append(np.asarray(chord) * (np.sin(6.28 * random.uniform(0.2, 2) * time_s) > 0))
    for rate in (2, 10):
        clicks = (random.random(samples) < rate / 16_000) * random.normal(0, 1, samples)
        waveforms.append(np.convolve(clicks, random.normal(0, 1, 200) * np.exp(-np.arange(200) / 40))[:samples])
    mels = [mel_power(torch.from_numpy(w.astype(np.float32))).numpy() for w in waveforms]
    return [mel / mel.mean() for mel in mels]
