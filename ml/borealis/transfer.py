"""Between host and device: chunks to audio embeddings and tokens back, on CUDA without waiting for the device."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from ml.borealis.features import N_SAMPLES, pad_chunks
from ml.borealis.sampler import Tokens
from ml.engine.model_runner import EncoderBatch
from ml.interfaces import Waveform

Encode = Callable[[torch.Tensor], torch.Tensor]
"""Waveforms (B, N) on the device to audio embeddings (B, 375, H)."""


class AudioBatch(EncoderBatch, Protocol):
    """Chunks being encoded, and their embeddings."""

    def wait(self) -> torch.Tensor:
        """The embeddings (B, 375, H); later work of the device waits for them, the host does not."""


class BatchEncoder(Protocol):
    """Starts encoder batches."""

    def encode(self, waveforms: Sequence[Waveform]) -> AudioBatch:
        """Start turning chunks into audio embeddings."""


@dataclass(frozen=True)
class HostBatch:
    """A batch that was computed at once."""

    audio: torch.Tensor  # (B, 375, H)

    def advance(self, must_pause: Callable[[], bool]) -> None:
        """See AudioBatch."""

    def is_ready(self) -> bool:
        """See AudioBatch."""
        return True

    def wait(self) -> torch.Tensor:
        """See AudioBatch."""
        return self.audio


class HostEncoder:
    """On the host: nothing to copy and nothing to overlap with."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode

    def encode(self, waveforms: Sequence[Waveform]) -> HostBatch:
        """See BatchEncoder."""
        return HostBatch(self._encode(pad_chunks(waveforms)))


class PausableEncoder:
    """On the CPU, where a batch may pause for another."""

    def __init__(self, start: Callable[[torch.Tensor], AudioBatch]) -> None:
        """`start` takes waveforms (B, N) to a batch of which nothing is computed yet."""
        self._start = start

    def encode(self, waveforms: Sequence[Waveform]) -> AudioBatch:
        """See BatchEncoder."""
        return self._start(pad_chunks(waveforms))


@dataclass(frozen=True)
class CudaBatch:
    """A batch on the encoder's stream."""

    audio: torch.Tensor  # (B, 375, H)
    done: torch.cuda.Event

    def advance(self, must_pause: Callable[[], bool]) -> None:
        """See AudioBatch."""

    def is_ready(self) -> bool:
        """See AudioBatch."""
        return bool(self.done.query())

    def wait(self) -> torch.Tensor:
        """See AudioBatch."""
        consumer = torch.cuda.current_stream(self.audio.device)
        consumer.wait_event(self.done)
        self.audio.record_stream(consumer)  # its memory is not reused before the consumer is done with it
        return self.audio


class AsyncEncoder:
    """Copies through two pinned buffers on one stream and encodes on another, both beside the decode steps.

    The buffers alternate: one is filled while the other is being copied. For one thread.
    """

    def __init__(self, encode: Encode, device: torch.device, batch_size: int) -> None:
        self._encode = encode
        self._device = device
        self._copies = torch.cuda.Stream(device)
        self._work = torch.cuda.Stream(device)
        self._work.wait_stream(torch.cuda.current_stream(device))  # the weights are being uploaded there
        self._buffers = [torch.zeros(batch_size, N_SAMPLES, pin_memory=True) for _ in range(2)]
        # When a buffer may be filled again.
        self._copied = [torch.cuda.Event() for _ in self._buffers]
        self._turn = 0

    def encode(self, waveforms: Sequence[Waveform]) -> CudaBatch:
        """See BatchEncoder; at most `batch_size` waveforms."""
        self._turn = 1 - self._turn
        self._copied[self._turn].synchronize()
        pinned = _fill(self._buffers[self._turn], waveforms)
        with torch.cuda.stream(self._copies):
            on_device = pinned.to(self._device, non_blocking=True)
            self._copied[self._turn].record()
        with torch.cuda.stream(self._work):
            self._work.wait_event(self._copied[self._turn])
            on_device.record_stream(self._work)
            audio = self._encode(on_device)
            done = torch.cuda.Event()
            done.record()
        return CudaBatch(audio, done)


def _fill(buffer: torch.Tensor, waveforms: Sequence[Waveform]) -> torch.Tensor:
    """The first rows of `buffer`, holding `waveforms` and zeros after them; contiguous, as an async copy must be."""
    rows = buffer[: len(waveforms)]
    for row, waveform in zip(rows.numpy(), waveforms, strict=True):
        row[: len(waveform)] = waveform
        row[len(waveform) :] = 0.0
    return rows


T = TypeVar("T")


@dataclass(frozen=True)
class Arrived(Generic[T]):
    """Tokens on the host."""

    ids: list[int]
    probabilities: list[float]
    tag: T


class Readback(Protocol[T]):
    """Brings the tokens of each step to the host."""

    def put(self, tokens: Tokens, tag: T) -> None:
        """Start copying `tokens`."""

    def get(self) -> list[Arrived[T]]:
        """What has arrived since the last call, oldest first."""

    def clear(self) -> None:
        """Drop what is under way or has not been fetched, tags and all."""


class HostReadback(Generic[T]):
    """On the CPU the tokens are there already; from another device each `put` waits for them."""

    def __init__(self) -> None:
        self._arrived: list[Arrived[T]] = []

    def put(self, tokens: Tokens, tag: T) -> None:
        """See Readback."""
        self._arrived.append(Arrived(tokens.ids.tolist(), tokens.probabilities.tolist(), tag))

    def get(self) -> list[Arrived[T]]:
        """See Readback."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def clear(self) -> None:
        """See Readback."""
        self._arrived = []


class CudaReadback(Generic[T]):
    """Copies into a ring of pinned buffers; the host runs at most DEPTH steps ahead of what it has read.

    The copy is queued behind the step on the current stream, so the tokens' memory may be overwritten by the next.
    """

    DEPTH = 3  # steps

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._ids = [torch.zeros(slots, dtype=torch.long, pin_memory=True) for _ in range(self.DEPTH)]
        self._probabilities = [torch.zeros(slots, pin_memory=True) for _ in range(self.DEPTH)]
        self._events = [torch.cuda.Event() for _ in range(self.DEPTH)]
        self._turn = 0
        self._pending: deque[tuple[int, int, T]] = deque()  # buffer, count of tokens, tag
        self._arrived: list[Arrived[T]] = []

    def put(self, tokens: Tokens, tag: T) -> None:
        """See Readback; waits for the oldest step where the ring is full."""
        while len(self._pending) >= self.DEPTH:
            self._read_oldest()
        count = len(tokens.ids)
        self._ids[self._turn][:count].copy_(tokens.ids, non_blocking=True)
        self._probabilities[self._turn][:count].copy_(tokens.probabilities, non_blocking=True)
        self._events[self._turn].record(torch.cuda.current_stream(self._device))
        self._pending.append((self._turn, count, tag))
        self._turn = (self._turn + 1) % self.DEPTH

    def get(self) -> list[Arrived[T]]:
        """See Readback."""
        while self._pending and self._events[self._pending[0][0]].query():
            self._read_oldest()
        arrived, self._arrived = self._arrived, []
        return arrived

    def clear(self) -> None:
        """See Readback. The buffers may be filled again at once: copies go one after the other."""
        self._pending.clear()
        self._arrived = []

    def _read_oldest(self) -> None:
        turn, count, tag = self._pending.popleft()
        self._events[turn].synchronize()
        ids, probabilities = self._ids[turn][:count].tolist(), self._probabilities[turn][:count].tolist()
        self._arrived.append(Arrived(ids, probabilities, tag))
