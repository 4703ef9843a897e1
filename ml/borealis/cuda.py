"""Takes chunks from the host to audio embeddings on the device, on CUDA beside the decode steps."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from ml.borealis.decoder import SlotDecoder
from ml.borealis.features import N_SAMPLES, pad_chunks
from ml.interfaces import Waveform

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


T = TypeVar("T")


class Readback(Protocol[T]):
    """Takes the tokens of each step, and hands them out as numbers once they have arrived."""

    def put(self, tokens: torch.Tensor, tag: T) -> None:
        """Starts bringing over `tokens` (n,)."""

    def get(self) -> list[tuple[list[int], T]]:
        """What has arrived, oldest first, each with its tag."""

    def forget(self) -> None:
        """Drops what is under way or has not been fetched, tags and all."""


class HostReadback(Generic[T]):
    """On the CPU the tokens are there already."""

    def __init__(self) -> None:
        self._arrived: list[tuple[list[int], T]] = []

    def put(self, tokens: torch.Tensor, tag: T) -> None:
        """See Readback."""
        self._arrived.append((tokens.tolist(), tag))

    def get(self) -> list[tuple[list[int], T]]:
        """See Readback."""
        arrived, self._arrived = self._arrived, []
        return arrived

    def forget(self) -> None:
        """See Readback."""
        self._arrived = []


class CudaReadback(Generic[T]):
    """Copies into a ring of pinned buffers; the host runs at most DEPTH steps ahead of what it has read.

    The copy is queued behind the step on the current stream, so the tokens' memory may be overwritten by the next.
    """

    DEPTH = 3  # steps

    def __init__(self, device: torch.device, slots: int) -> None:
        self._device = device
        self._buffers = [torch.zeros(slots, dtype=torch.long, pin_memory=True) for _ in range(self.DEPTH)]
        self._events = [torch.cuda.Event() for _ in range(self.DEPTH)]
        self._turn = 0
        self._pending: deque[tuple[int, int, T]] = deque()  # buffer, count of tokens, tag
        self._arrived: list[tuple[list[int], T]] = []

    def put(self, tokens: torch.Tensor, tag: T) -> None:
        """See Readback; waits for the oldest step where the ring is full."""
        while len(self._pending) >= self.DEPTH:
            self._read_oldest()
        self._buffers[self._turn][: len(tokens)].copy_(tokens, non_blocking=True)
        self._events[self._turn].record(torch.cuda.current_stream(self._device))
        self._pending.append((self._turn, len(tokens), tag))
        self._turn = (self._turn + 1) % self.DEPTH

    def get(self) -> list[tuple[list[int], T]]:
        """See Readback."""
        while self._pending and self._events[self._pending[0][0]].query():
            self._read_oldest()
        arrived, self._arrived = self._arrived, []
        return arrived

    def forget(self) -> None:
        """See Readback. The buffers may be filled again at once: copies go one after the other."""
        self._pending.clear()
        self._arrived = []

    def _read_oldest(self) -> None:
        turn, count, tag = self._pending.popleft()
        self._events[turn].synchronize()
        self._arrived.append((self._buffers[turn][:count].tolist(), tag))


def make_readback(device: torch.device, slots: int) -> "HostReadback[T] | CudaReadback[T]":
    """The readback for `device`."""
    return CudaReadback(device, slots) if device.type == "cuda" else HostReadback()


ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # slots stepped together
LENGTH_BUCKET = 128  # positions
WARM_UP_STEPS = 3  # eager steps before a capture, for kernels that choose themselves on first use


class GraphedDecoder:
    """A SlotDecoder whose steps are captured once and replayed, so that a step costs one launch.

    A capture sees fixed shapes only: rows and key length are rounded up to their buckets. Slots beyond the active
    ones then decode nonsense nobody reads, and keys beyond a slot's position are masked in either case.
    Source: PyTorch's notes on CUDA graphs (torch.cuda.graph, shared memory pools, side-stream warm-up).
    """

    def __init__(self, decoder: SlotDecoder) -> None:
        self._decoder = decoder
        self.prefill_length = decoder.prefill_length
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._device = decoder.tokens.device
        self._stream = torch.cuda.Stream(self._device)  # one for all: cuBLAS keeps a workspace for every stream

    def prefill(self, rows: list[int], audio: torch.Tensor, seeds: Sequence[int | None]) -> torch.Tensor:
        """See SlotDecoder; not captured, its shapes follow the group's size."""
        return self._decoder.prefill(rows, audio, seeds)

    def move(self, row: int, to: int) -> None:
        """See SlotDecoder; between two replays, on their stream."""
        self._decoder.move(row, to)

    def step(self, active: int, length: int) -> torch.Tensor:
        """See SlotDecoder; not replayed while single slots are sampled.

        The result's memory belongs to the graph: read it before the bucket's next step.
        """
        if self._decoder.picker.any_row_sampled:
            return self._decoder.step(active, length)
        bucket = self._bucket(active, length)
        if bucket not in self._graphs:
            self._graphs[bucket] = self._capture(*bucket)
        graph, tokens = self._graphs[bucket]
        graph.replay()
        return tokens

    def capture_all(self) -> None:
        """Captures every bucket, largest first so that the others share its memory."""
        lengths = range(self._decoder.capacity, self.prefill_length, -LENGTH_BUCKET)
        for rows in sorted({min(rows, self._decoder.slots) for rows in ROW_BUCKETS}, reverse=True):
            for length in lengths:
                bucket = self._bucket(rows, length)
                self._graphs[bucket] = self._capture(*bucket)

    def _bucket(self, active: int, length: int) -> tuple[int, int]:
        rows = next(rows for rows in ROW_BUCKETS if rows >= active)
        steps = -(-(length - self.prefill_length) // LENGTH_BUCKET)  # rounded up
        full = self.prefill_length + steps * LENGTH_BUCKET
        return min(rows, self._decoder.slots), min(full, self._decoder.capacity)

    def _capture(self, rows: int, length: int) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        """Records one step. Steps write to the cache and move the positions: both are put back."""
        decoder = self._decoder
        tokens, positions = decoder.tokens.clone(), decoder.positions.clone()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP_STEPS):
                    decoder.step(rows, length)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = decoder.step(rows, length)
        decoder.tokens.copy_(tokens)
        decoder.positions.copy_(positions)
        return graph, result
