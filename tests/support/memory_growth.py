"""Growth of memory as a slope with its standard error: a leak exceeds the run's own noise."""

import math
from collections.abc import Sequence

import numpy as np

MIN_SAMPLES = 4
STANDARD_ERRORS = 2


def slope(amounts: Sequence[float], memory_bytes: Sequence[float]) -> tuple[float, float]:
    """Return bytes per unit of work and the standard error, by least squares; nan for fewer than MIN_SAMPLES."""
    if len(amounts) < MIN_SAMPLES:
        return math.nan, math.nan
    coefficients, covariance = np.polyfit(np.array(amounts, float), np.array(memory_bytes, float), 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def grows(amounts: Sequence[float], memory_bytes: Sequence[float], tolerated: float) -> bool:
    """Return whether memory grows by more than `tolerated` bytes per unit of work, its noise subtracted.

    False if there are too few samples to tell.
    """
    per_unit, error = slope(amounts, memory_bytes)
    return per_unit - STANDARD_ERRORS * error > tolerated
