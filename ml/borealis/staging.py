"""Takes chunks from the host to audio embeddings on the device, on CUDA beside the decode steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ml.borealis.features import N_SAMPLES
from ml.borealis.model import Waveform, pad_chunks

Prepare = Callable[[torch.Tensor], torch.Tensor]
"""Waveforms (B, N) on the device to audio embeddings (B, 375, H)."""


class Staged(Protocol):
    """A group under way."""

    def is_ready(self) -> bool:
        """Whether its embeddings are computed."""

    def settle(self) -> torch.Tensor:
        """Its embeddings (B, 375, H); later work of the device waits for them, the host does not."""


class Stager(Protocol):
    """Starts groups on their way."""

    def stage(self, waveforms: Sequence[Waveform]) -> Staged:
        """Starts turning a group of waveforms into embeddings."""


@dataclass(frozen=True)
class HostStaged:
    """On the CPU a group is ready once it is staged."""

    audio: torch.Tensor  # (B, 375, H)

    def is_ready(self) -> bool:
        """See Staged."""
        return True

    def settle(self) -> torch.Tensor:
        """See Staged."""
        return self.audio


class HostStager:
    """On the CPU: nothing to copy and nothing to overlap with."""

    def __init__(self, prepare: Prepare) -> None:
        self._prepare = prepare

    def stage(self, waveforms: Sequence[Waveform]) -> HostStaged:
        """See Stager."""
        return HostStaged(self._prepare(pad_chunks(waveforms)))


@dataclass(frozen=True)
class CudaStaged:
    """A group on the encoder's stream."""

    audio: torch.Tensor  # (B, 375, H)
    done: torch.cuda.Event

    def is_ready(self) -> bool:
        """See Staged."""
        return bool(self.done.query())

    def settle(self) -> torch.Tensor:
        """See Staged."""
        consumer = torch.cuda.current_stream(self.audio.device)
        consumer.wait_event(self.done)
        self.audio.record_stream(consumer)  # its memory is not reused before the consumer is done with it
        return self.audio


class CudaStager:
    """Copies through two pinned buffers on one stream and computes on another, both beside the decode steps.

    The buffers take turns, so that one can be filled while the other's copy is under way. For one thread.
    """

    def __init__(self, prepare: Prepare, device: torch.device, group: int) -> None:
        self._prepare = prepare
        self._device = device
        self._copies = torch.cuda.Stream(device)
        self._work = torch.cuda.Stream(device)
        self._work.wait_stream(torch.cuda.current_stream(device))  # the weights are being uploaded there
        self._buffers = [torch.zeros(group, N_SAMPLES, pin_memory=True) for _ in range(2)]
        # When a buffer may be filled again.
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def stage(self, waveforms: Sequence[Waveform]) -> CudaStaged:
        """See Stager; at most `group` waveforms."""
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        pinned = _fill(self._buffers[self._turn], waveforms)
        with torch.cuda.stream(self._copies):
            on_device = pinned.to(self._device, non_blocking=True)
            self._copied[self._turn].record()
        with torch.cuda.stream(self._work):
            self._work.wait_event(self._copied[self._turn])
            on_device.record_stream(self._work)
            audio = self._prepare(on_device)
            done = torch.cuda.Event()
            done.record()
        return CudaStaged(audio, done)


def make_stager(prepare: Prepare, device: torch.device, group: int) -> Stager:
    """The stager for `device`."""
    return CudaStager(prepare, device, group) if device.type == "cuda" else HostStager(prepare)


def _fill(buffer: torch.Tensor, waveforms: Sequence[Waveform]) -> torch.Tensor:
    """The first rows of `buffer`, holding `waveforms` and zeros after them; contiguous, as an async copy must be."""
    rows = buffer[: len(waveforms)]
    for row, waveform in zip(rows.numpy(), waveforms, strict=True):
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
    return rows
