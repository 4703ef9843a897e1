"""Mel power of speech, its one-byte store, and Whisper's log scale."""

from __future__ import annotations

import torch
import torchaudio

from ml.interfaces import SAMPLE_RATE

FLOOR = 1e-10  # mel power that Whisper's front end calls silence
_LOG_FLOOR, _LOG_TOP = -10.0, 3.0  # log10 of the power that bytes 0 and 255 stand for
_STEP = (_LOG_TOP - _LOG_FLOOR) / 255

_transform = torchaudio.transforms.MelSpectrogram(
    SAMPLE_RATE, 400, hop_length=160, n_mels=128, f_min=0, f_max=8000, norm="slaney", mel_scale="slaney"
)


def mel_power(waveform: torch.Tensor) -> torch.Tensor:
    """Mel power (T, 128), 100 frames a second, of a waveform (samples,) at 16 kHz."""
    return _transform(waveform)[:, :-1].T.contiguous()  # type: ignore[no-any-return]


def to_bytes(power: torch.Tensor) -> torch.Tensor:
    """Power as uint8, in steps of half a decibel; 0 is silence."""
    scaled = (power.clamp(min=FLOOR).log10() - _LOG_FLOOR) / _STEP
    return scaled.round().clamp(0, 255).to(torch.uint8)


def from_bytes(stored: torch.Tensor) -> torch.Tensor:
    """The power that `to_bytes` stored; byte 0 gives exactly zero."""
    return torch.where(stored > 0, 10.0 ** (stored.float() * _STEP + _LOG_FLOOR), torch.zeros(()))


def whisper_scale(power: torch.Tensor) -> torch.Tensor:
    """Whisper's input features from the mel power (..., T, 128) of one whole clip each."""
    logarithm = power.clamp(min=FLOOR).log10()
    top = logarithm.amax(dim=(-2, -1), keepdim=True)
    return (torch.maximum(logarithm, top - 8.0) + 4.0) / 4.0
