"""Bringing chunks to the device as features, on CUDA beside whatever the device is computing."""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from ml.borealis.features import N_SAMPLES
from ml.borealis.model import Waveform, pad_chunks

LogMelFunction = Callable[[torch.Tensor], torch.Tensor]


class Stager(Protocol):
    """Turns waveforms into features on the device."""

    runs_beside: bool  # whether staging overlaps with the device's other work, so that doing it early pays

    def stage(self, waveforms: Sequence[Waveform]) -> torch.Tensor:
        """Features (B, 128, 3000) on the device, perhaps still being computed."""

    def settle(self) -> None:
        """Make all later work of the device wait for what has been staged."""


class HostStager:
    """On the CPU: there is nothing to copy and nothing to overlap with."""

    runs_beside = False

    def __init__(self, log_mel: LogMelFunction) -> None:
        self._log_mel = log_mel

    def stage(self, waveforms: Sequence[Waveform]) -> torch.Tensor:
        """See Stager."""
        return self._log_mel(pad_chunks(waveforms))

    def settle(self) -> None:
        """Nothing is ever pending."""


class CudaStager:
    """Copies through two pinned buffers and computes log-mel on a stream of its own.

    The two buffers take turns, so that one can be filled while the other's copy is under way. For one thread.
    """

    runs_beside = True

    def __init__(self, log_mel: LogMelFunction, device: torch.device, batch_size: int) -> None:
        self._log_mel = log_mel
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))  # the filter bank is being uploaded there
        self._buffers = [torch.zeros(batch_size, N_SAMPLES, pin_memory=True) for _ in range(2)]
        # When a buffer may be filled again.
        self._copied = [torch.cuda.Event() for _ in self._buffers]  # type: ignore[no-untyped-call]
        self._turn = 0

    def stage(self, waveforms: Sequence[Waveform]) -> torch.Tensor:
        """See Stager; at most `batch_size` waveforms."""
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        pinned = _fill(self._buffers[self._turn], waveforms)
        consumer = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._stream):
            on_device = pinned.to(self._device, non_blocking=True)
            self._copied[self._turn].record(self._stream)
            features = self._log_mel(on_device)
        features.record_stream(consumer)  # its memory is not reused before the consumer is done with it
        return features

    def settle(self) -> None:
        """See Stager; the host does not wait."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def make_stager(log_mel: LogMelFunction, device: torch.device, batch_size: int) -> Stager:
    """The stager for `device`."""
    return CudaStager(log_mel, device, batch_size) if device.type == "cuda" else HostStager(log_mel)


def _fill(buffer: torch.Tensor, waveforms: Sequence[Waveform]) -> torch.Tensor:
    """The first rows of `buffer`, holding `waveforms` and zeros after them; contiguous, as an async copy must be."""
    rows = buffer[: len(waveforms)]
    for row, waveform in zip(rows.numpy(), waveforms, strict=True):
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
    return rows
