"""Detect chunks without speech (silence, steady noise), which need not go to the model."""

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 320  # 20 ms at 16 kHz
SMOOTH_FRAMES = 3  # 60 ms: evens out noise, and is shorter than the shortest word
SILENCE_DB = -70.0  # dBFS; quieter than the noise floor of any recording of speech
STEADY_DB = 2.5  # steady noise exceeds its floor by at most 1.3 dB over 60 ms, a word as loud by more than 4


def has_speech(waveform: NDArray[np.float32]) -> bool:
    """Return whether `waveform` (N,), at 16 kHz, holds anything but silence or steady noise.

    Compares the loudest 60 ms with the chunk's own noise floor, at any level: one short word is enough in a chunk of
    any length. Errors go one way: varying noise is taken for speech, speech is never taken for noise.
    """
    n_frames = len(waveform) // FRAME_SAMPLES
    if n_frames < SMOOTH_FRAMES:
        return bool(np.any(np.abs(waveform) > 10 ** (SILENCE_DB / 20)))
    framed = waveform[: n_frames * FRAME_SAMPLES].reshape(n_frames, FRAME_SAMPLES)  # (F, 320)
    power = np.square(framed - framed.mean(axis=1, keepdims=True)).mean(axis=1)  # (F,), a constant offset left out
    smooth = np.convolve(power, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), mode="valid")  # (F - 2,)
    level_db = 10 * np.log10(np.maximum(smooth, 1e-12))
    floor_db, loud_db = np.percentile(level_db, 10), level_db.max()
    return bool(loud_db > SILENCE_DB and loud_db - floor_db > STEADY_DB)
