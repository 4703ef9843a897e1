"""Measure the power of each 10 ms of a recording above 100 Hz: the measure of the cuts and the gate.

Mains hum, rumble and a constant offset lie below and count for nothing: 60 dB are taken off at 50 Hz, 44 dB at 60 Hz.
A deep voice has its fundamental there at most, and its harmonics above.
"""

import numpy as np
from numpy.typing import NDArray

from ml.audio.highpass import HighPass
from ml.interfaces import SAMPLE_RATE, Waveform

FRAME_S = 0.01
_CUTOFF_HZ = 100.0
_ORDER = 10
_BLOCK_FRAMES = 100  # a second is filtered at a time, wherever the recording's own blocks end
_VOICED_SHARE = 0.3  # of the range from the noise floor to speech, in dB; quieter frames are a pause
_MAX_RANGE_DB = 45.0
_MIN_RANGE_DB = 6.0  # with less there are no pauses
_SMOOTH_FRAMES = 3  # 30 ms
ONSET_FRAMES = 10  # 100 ms: at the start of a recording, hum sets in at once, which is a click above 100 Hz too

Frames = NDArray[np.float64]


class LevelMeter:
    """Takes a recording in blocks of any size; returns the mean power of its frames, the same for any blocks.

    A frame's power depends on no later sample.
    """

    def __init__(self, sample_rate: int = SAMPLE_RATE) -> None:
        self.frame_samples = round(sample_rate * FRAME_S)
        self._filter = HighPass(_CUTOFF_HZ, _ORDER, sample_rate, self.frame_samples // 4)
        self._block_samples = _BLOCK_FRAMES * self.frame_samples
        self._waiting: list[Waveform] = []
        self._n_waiting = 0

    def push(self, block: Waveform) -> Frames:
        """Take samples (n,) and return the powers (F,) of the frames that are now measured, in whole seconds."""
        self._waiting.append(block)
        self._n_waiting += len(block)
        if self._n_waiting < self._block_samples:
            return np.zeros(0)
        waiting = np.concatenate(self._waiting)
        n_ready = self._n_waiting // self._block_samples * self._block_samples
        self._waiting, self._n_waiting = [waiting[n_ready:]], self._n_waiting - n_ready
        ready = waiting[:n_ready].reshape(-1, self._block_samples)
        return np.concatenate([self._measure(block) for block in ready])

    def finish(self) -> Frames:
        """Return the powers of the last whole frames."""
        rest = np.concatenate(self._waiting) if self._waiting else np.zeros(0, np.float32)
        self._waiting, self._n_waiting = [], 0
        return self._measure(rest)

    def _measure(self, samples: Waveform) -> Frames:
        filtered = self._filter.push(samples[None])[0]
        frames = filtered[: len(filtered) // self.frame_samples * self.frame_samples].reshape(-1, self.frame_samples)
        powers: Frames = np.square(frames).mean(axis=1)
        return powers


def frame_powers(waveform: Waveform, sample_rate: int = SAMPLE_RATE) -> Frames:
    """Return the powers (F,) of the whole frames of a recording (N,)."""
    meter = LevelMeter(sample_rate)
    return np.concatenate([meter.push(waveform), meter.finish()])


def voiced_frames(waveform: Waveform) -> NDArray[np.bool_]:
    """Whether each frame (n,) of FRAME_S is louder than the pauses of `waveform` (N,)."""
    powers = frame_powers(waveform)
    if len(powers) < _SMOOTH_FRAMES:
        return np.ones(len(powers), bool)
    smooth = np.convolve(powers, np.full(_SMOOTH_FRAMES, 1 / _SMOOTH_FRAMES), mode="same")
    levels = 10 * np.log10(np.maximum(smooth, 1e-12))
    speech = np.percentile(levels, 90)
    floor = max(levels.min(), speech - _MAX_RANGE_DB)
    if speech - floor < _MIN_RANGE_DB:
        return np.ones(len(powers), bool)
    return np.asarray(levels > floor + _VOICED_SHARE * (speech - floor))
