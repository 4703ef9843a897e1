"""Whisper's log-mel spectrogram, computed by torchaudio on the model's own device."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torchaudio.transforms import MelSpectrogram

from ml.interfaces import SAMPLE_RATE, Waveform

CHUNK_S = 30  # seconds of sound in every input of the model, padding included
N_SAMPLES = CHUNK_S * SAMPLE_RATE  # 480,000 samples in a chunk
N_FFT = 400  # samples in a window: 25 ms
HOP_SAMPLES = 160  # samples from frame to frame: 10 ms
N_FRAMES = N_SAMPLES // HOP_SAMPLES  # 3,000 frames in a chunk
N_MELS = 128  # mel bins
MAX_FREQUENCY = SAMPLE_RATE / 2  # Hz, the Nyquist frequency

POWER_FLOOR = 1e-10  # smallest mel power, so that silence has a logarithm
DYNAMIC_RANGE = 8.0  # decades kept below an item's loudest bin (80 dB)


class LogMel(nn.Module):
    """Waveforms in, log-mel features out, equal to transformers' WhisperFeatureExtractor(feature_size=128).

    Holds the window and the filter bank on `device`; has no parameters and is not part of a checkpoint.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.mel = MelSpectrogram(
            SAMPLE_RATE,
            N_FFT,
            hop_length=HOP_SAMPLES,
            n_mels=N_MELS,
            f_min=0.0,
            f_max=MAX_FREQUENCY,
            norm="slaney",
            mel_scale="slaney",
        ).to(device)

    @torch.no_grad()
    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Features (B, 128, 3000) float32 of `waveforms` (B, <= 480,000) at 16 kHz, zero-padded to 30 s.

        The frames of the padding are not computed: their power is 0.

        Raises ValueError if a waveform is longer than 30 s.
        """
        n_samples = waveforms.shape[-1]
        if n_samples > N_SAMPLES:
            raise ValueError(f"a chunk has at most {N_SAMPLES} samples, got {n_samples}")
        nonzero = min(N_FRAMES, -(-(n_samples + N_FFT // 2) // HOP_SAMPLES))  # frames that a sample falls into
        needed = min(N_SAMPLES, nonzero * HOP_SAMPLES + N_FFT)  # samples that these frames see
        padded = nn.functional.pad(waveforms.to(self.device, torch.float32), (0, needed - n_samples))
        power: torch.Tensor = self.mel(padded)[..., :nonzero]  # (B, 128, nonzero); Whisper drops a last frame of 3,001
        log_power = power.clamp(min=POWER_FLOOR).log10()
        log_power = nn.functional.pad(
            log_power, (0, N_FRAMES - nonzero), value=math.log10(POWER_FLOOR)
        )  # (B, 128, 3000)
        loudest = log_power.amax(dim=(-2, -1), keepdim=True)  # (B, 1, 1): the range is that of each item
        return (torch.maximum(log_power, loudest - DYNAMIC_RANGE) + 4.0) / 4.0


def pad_chunks(waveforms: Sequence[Waveform]) -> torch.Tensor:
    """One tensor (B, longest) of waveforms of different lengths, zero-padded at the end."""
    padded = torch.zeros(len(waveforms), max(len(waveform) for waveform in waveforms))
    for row, waveform in zip(padded.numpy(), waveforms, strict=True):
        row[: len(waveform)] = waveform
    return padded
