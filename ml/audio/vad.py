"""Tells whether there can be speech in a chunk at all, so that the model is not asked about silence."""

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 320  # 20 ms at 16 kHz
SMOOTH_FRAMES = 3  # 60 ms: evens out noise, and is shorter than the shortest word
SILENCE_DB = -70.0  # dBFS; quieter than the noise of any recording with somebody in it
STEADY_DB = 2.5  # 60 ms of steady noise stand out by 1.3 dB at most, a word as loud as the noise by more than 4


def has_speech(waveform: NDArray[np.float32]) -> bool:
    """Whether `waveform` (N,), at 16 kHz, is anything but silence or steady noise.

    Looks at how far the loudest moment stands out from the chunk's own noise floor, whatever that is: a single short
    word is enough, however long the chunk. Meant to be wrong on one side only: noise that varies passes, quiet or
    noisy speech is never kept from the model.
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
