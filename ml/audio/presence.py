"""Tells whether there can be speech in a chunk at all, so that the model is not asked about silence."""

import numpy as np
from numpy.typing import NDArray

FRAME_SAMPLES = 320  # 20 ms at 16 kHz
SILENCE_DB = -70.0  # dBFS; quieter than the noise of any recording with somebody in it
STEADY_DB = 3.0  # steady noise varies by about 1 dB from frame to frame, speech as loud as the noise by more than 6


def may_hold_speech(waveform: NDArray[np.float32]) -> bool:
    """Whether `waveform` (N,), at 16 kHz, is anything but silence or steady noise.

    Looks at how far the loud frames stand out from the chunk's own noise floor, whatever that is. Meant to be wrong on
    one side only: noise that varies passes, quiet or noisy speech is never kept from the model.
    """
    frames = len(waveform) // FRAME_SAMPLES
    if frames < 2:
        return bool(np.any(np.abs(waveform) > 10 ** (SILENCE_DB / 20)))
    framed = waveform[: frames * FRAME_SAMPLES].reshape(frames, FRAME_SAMPLES)  # (F, 320)
    power = np.square(framed - framed.mean(axis=1, keepdims=True)).mean(axis=1)  # (F,), a constant offset left out
    level_db = 10 * np.log10(np.maximum(power, 1e-12))
    floor_db, loud_db = np.percentile(level_db, (10, 99))
    return bool(loud_db > SILENCE_DB and loud_db - floor_db > STEADY_DB)
