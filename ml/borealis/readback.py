"""Brings decoded tokens to the host without holding up the device."""

from collections import deque
from typing import Generic, Protocol, TypeVar

import torch

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
