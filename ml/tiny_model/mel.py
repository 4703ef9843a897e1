"""Mel power of speech, its storage in one byte, and Whisper's log scale."""

from __future__ import annotations

import torch

from ml.borealis.features import DYNAMIC_RANGE, POWER_FLOOR, LogMel

_LOG_FLOOR, _LOG_TOP = -10.0, 3.0  # log10 of the power that bytes 0 and 255 stand for
_STEP = (_LOG_TOP - _LOG_FLOOR) / 255

_transform = LogMel(torch.device("cpu")).mel


def mel_power(waveform: torch.Tensor) -> torch.Tensor:
    """Mel power (T, 128), 100 frames a second, of a waveform (samples,) at 16 kHz."""
    return _transform(waveform)[:, :-1].T.contiguous()  # type: ignore[no-any-return]


def to_bytes(power: torch.Tensor) -> torch.Tensor:
    """Store power as uint8, in steps of half a decibel; 0 is silence."""
    scaled = (power.clamp(min=POWER_FLOOR).log10() - _LOG_FLOOR) / _STEP
    return scaled.round().clamp(0, 255).to(torch.uint8)


def from_bytes(stored: torch.Tensor) -> torch.Tensor:
    """Return the power that `to_bytes` stored; byte 0 gives exactly zero."""
    return torch.where(stored > 0, 10.0 ** (stored.float() * _STEP + _LOG_FLOOR), torch.zeros(()))


def whisper_scale(power: torch.Tensor) -> torch.Tensor:
    """Whisper's input features from the mel power (..., T, 128) of one whole clip each."""
    logarithm = power.clamp(min=POWER_FLOOR).log10()
    top = logarithm.amax(dim=(-2, -1), keepdim=True)
    return (torch.maximum(logarithm, top - DYNAMIC_RANGE) + 4.0) / 4.0
