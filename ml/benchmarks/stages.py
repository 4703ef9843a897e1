"""Adds up how long each stage of the work takes, on the host's clock or on CUDA's."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

STAGES = ("decode", "split", "features", "encode", "prefill", "steps")  # in the order a recording passes them


class Mark:
    """A moment: on CUDA the one at which the current stream gets here, elsewhere now."""

    def __init__(self, on_cuda: bool) -> None:
        self._event: torch.cuda.Event | None = None
        self._time_s = time.perf_counter()
        if on_cuda:
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def seconds_until(self, end: "Mark") -> float:
        """Seconds from here to `end`; waits for both to be reached."""
        if self._event and end._event:
            end._event.synchronize()
            return float(self._event.elapsed_time(end._event)) / 1000.0
        return end._time_s - self._time_s


class Stages:
    """Sums of seconds by stage, over all threads. Usable from many threads."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._spans: defaultdict[str, list[tuple[Mark, Mark]]] = defaultdict(list)
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._lock = threading.Lock()

    def mark(self) -> Mark:
        """The moment at which the device gets to what is queued now."""
        return Mark(self._on_cuda)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Adds the device's time for the block to `stage`."""
        start = self.mark()
        yield
        self.add_span(stage, start, self.mark())

    @contextmanager
    def time_on_host(self, stage: str) -> Iterator[None]:
        """Adds the block's time by the host's clock to `stage`."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - started_s)

    def add_span(self, stage: str, start: Mark, end: Mark) -> None:
        """Adds the time from `start` to `end` to `stage`."""
        with self._lock:
            self._spans[stage].append((start, end))

    def add(self, stage: str, seconds: float) -> None:
        """Adds `seconds` to `stage`."""
        with self._lock:
            self._sums[stage] += seconds

    def count(self, name: str, number: int) -> None:
        """Adds `number` to the count called `name`."""
        with self._lock:
            self._counts[name] += number

    def totals(self) -> dict[str, float]:
        """Seconds by stage; waits for the device."""
        with self._lock:
            for stage, spans in self._spans.items():
                self._sums[stage] += sum(start.seconds_until(end) for start, end in spans)
            self._spans.clear()
            return dict(self._sums)

    def counts(self) -> dict[str, int]:
        """Counts by name."""
        with self._lock:
            return dict(self._counts)
