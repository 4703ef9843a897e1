"""Detect chunks without speech (silence, steady noise), which need not go to the model."""

import numpy as np

from ml.audio.levels import ONSET_FRAMES, Frames, frame_powers
from ml.interfaces import Waveform

SMOOTH_FRAMES = 6  # 60 ms: evens out noise, and is shorter than the shortest word
SILENCE_DB = -70.0  # dBFS; quieter than the noise floor of any recording of speech
STEADY_DB = 2.5  # steady noise exceeds its floor by at most 1.3 dB over 60 ms, a word as loud by more than 4


def stands_out(powers: Frames) -> bool:
    """Return whether these powers (F,) of 10 ms each, above 100 Hz, are anything but silence or steady noise.

    Compares the loudest 60 ms with the noise floor, at any level: one short word is enough in a chunk of any length.
    Errors go one way: varying noise is taken for speech, speech is never taken for noise.
    """
    if len(powers) < SMOOTH_FRAMES:
        return bool(len(powers) and powers.max() > 10 ** (SILENCE_DB / 10))
    smooth = np.convolve(powers, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), mode="valid")  # (F - 5,)
    level_db = 10 * np.log10(np.maximum(smooth, 1e-12))
    floor_db, loud_db = np.percentile(level_db, 10), level_db.max()
    return bool(loud_db > SILENCE_DB and loud_db - floor_db > STEADY_DB)


def has_speech(waveform: Waveform) -> bool:
    """Return whether the recording `waveform` (N,), at 16 kHz, holds anything but silence or steady noise."""
    powers = frame_powers(waveform)
    return stands_out(powers[ONSET_FRAMES:] if len(powers) > 2 * ONSET_FRAMES else powers)
