"""Mix the channels of a recording to one without losing any: not by antiphase, not by their number or place."""

import numpy as np
from numpy.typing import NDArray

from ml.audio.packets import Samples
from ml.interfaces import Waveform

FULL_SCALE = 32768.0  # s16 to [-1, 1)
_ANTIPHASE = -0.5  # correlation of two channels whose sum loses more than it adds
_RAMP_SAMPLES = 800  # 50 ms: no click where the weights change
_MIN_POWER = 1e-9  # -90 dBFS: quieter channels carry nothing,
_MIN_SHARE = 1e-4  # nor do those 40 dB below the loudest
_WORTH_A_WARNING = 0.05  # of the power is in channels that were inverted


class Mixer:
    """Mixes one recording, a second at a time.

    The mix is the mean of the channels, or rather of those that have carried sound so far, but of two at least: speech
    in one of eight channels keeps most of its level. A channel in antiphase to a louder one is inverted first.
    """

    def __init__(self) -> None:
        self._signs: NDArray[np.float32] | None = None  # (C,)
        self._is_active: NDArray[np.bool_] = np.zeros(0, bool)
        self._weights: NDArray[np.float32] | None = None
        self._power = self._inverted_power = 0.0

    @property
    def has_inverted(self) -> bool:
        """Whether a considerable part of the sound was in channels that had to be inverted."""
        return self._inverted_power > _WORTH_A_WARNING * self._power

    def mix(self, block: Samples) -> Waveform:
        """Return the next samples (C, n) as one channel (n,)."""
        channels = block.astype(np.float32)
        channels /= FULL_SCALE
        if len(channels) == 1:
            return np.asarray(channels[0], np.float32)
        weights = self._weigh(channels)
        before, self._weights = self._weights, weights
        mixed = _sum(channels, weights)
        if before is not None and not np.array_equal(before, weights):
            n = min(_RAMP_SAMPLES, len(mixed))
            rise = np.arange(n, dtype=np.float32) / n
            mixed[:n] = mixed[:n] * rise + _sum(channels[:, :n], before) * (1 - rise)
        return mixed

    def _weigh(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the weight of each channel (C,), from this block and those before."""
        # Differences take off the offset, and 20 dB of hum against speech: in phase, they would hide the antiphase.
        steps = np.diff(channels, axis=1)
        products = np.einsum("in,jn->ij", steps, steps) / max(1, steps.shape[1])  # (C, C)
        powers = np.diag(products)
        if self._signs is None:
            self._signs = np.ones(len(channels), np.float32)
            self._is_active = np.zeros(len(channels), bool)
        is_active = powers > max(_MIN_POWER, _MIN_SHARE * float(powers.max()))
        self._is_active |= is_active
        order = [int(channel) for channel in np.argsort(-powers, kind="stable") if is_active[channel]]
        for rank, channel in enumerate(order[1:], start=1):
            louder = order[:rank]
            correlations = products[channel, louder] / np.sqrt(powers[channel] * powers[louder])
            strongest = int(np.argmax(np.abs(correlations)))
            if correlations[strongest] * self._signs[channel] * self._signs[louder[strongest]] < _ANTIPHASE:
                self._signs[channel] *= -1
        self._power += float(powers.sum())
        self._inverted_power += float(powers[self._signs < 0].sum())
        return np.asarray(self._signs / max(2, int(self._is_active.sum())), np.float32)


def _sum(channels: NDArray[np.float32], weights: NDArray[np.float32]) -> Waveform:
    """Return the weighted sum (n,) of channels (C, n). A product of matrices would wake the threads of BLAS for it."""
    total = channels[0] * weights[0]
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        total += channel * weight
    return np.asarray(total, np.float32)
