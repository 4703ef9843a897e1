"""The values that every layer shares: the waveform and its rate."""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz, of every waveform below the decoder

Waveform = NDArray[np.float32]
"""Mono samples (N,) at SAMPLE_RATE in [-1, 1]."""
