"""What an engine needs of a scheduler, and what the schedulers of all models share."""

import logging
import time
from collections.abc import Callable, Container, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol, TypeVar

from ml.engine.request import Request, Retry

T = TypeVar("T")


@dataclass
class EngineStats:
    """Totals since the start. Written by the engine's thread; on CUDA the times are those of queueing the work."""

    chunks: int = 0  # recognised
    groups: int = 0  # encoder batches
    steps: int = 0  # decode steps
    stepped_rows: int = 0  # sequences decoded, summed over steps: / steps = mean batch
    waited_s: float = 0.0  # from submission to admission, summed over chunks
    encode_s: float = 0.0  # features and encoder
    prefill_s: float = 0.0
    step_s: float = 0.0
    fast_path_failed: int = 0  # 1 where the device's fast path failed its self-check and a plain one serves

    def snapshot(self) -> dict[str, float]:
        """A copy as plain figures."""
        return asdict(self)


class Heartbeat:
    """Time since the engine's thread last made progress. A device that hangs shows here."""

    def __init__(self) -> None:
        self._last_s: float | None = None  # time.monotonic(); None while idle

    def beat(self) -> None:
        """Record progress: a chunk encoded, a step decoded."""
        self._last_s = time.monotonic()

    def pause(self) -> None:
        """Record that there is nothing to do."""
        self._last_s = None

    @property
    def silent_s(self) -> float:
        """Seconds without progress; 0 while there is nothing to do."""
        last_s = self._last_s
        return 0.0 if last_s is None else time.monotonic() - last_s


class Budget(NamedTuple):
    """What may be admitted."""

    chunks: int
    recordings: AbstractSet[Hashable] | None = None  # of these recordings alone; None for all


class Scheduler(Protocol):
    """Decides what the device does next and does it. Only the engine's thread calls it, unless noted."""

    max_chunk_samples: int  # longest chunk that the model takes
    logger: logging.Logger
    stats: EngineStats
    heartbeat: Heartbeat  # the scheduler beats after each chunk and each step
    waiting: Callable[[], Mapping[Hashable, int]]  # recordings whose chunks wait for admission; the engine sets it

    @property
    def in_flight(self) -> list[Request]:
        """Requests admitted and not settled yet, oldest first. For any thread."""

    @property
    def running(self) -> int:
        """Number of chunks that the model works on at this moment. For any thread."""

    def admission_budget(self, waiting: Mapping[Hashable, int]) -> Budget:
        """What may be admitted now, where so many chunks wait of each recording."""

    def admit(self, requests: list[Request]) -> None:
        """Start work on `requests`, at most `admission_budget`."""

    def advance(self) -> None:
        """Do one piece of work for what is in flight, and settle what is complete or cancelled."""

    def clear(self) -> list[Request]:
        """Forget all work under way; return the requests that were in flight."""


def new_recordings(waiting: Iterable[Hashable], admitted: Container[Hashable]) -> set[Hashable]:
    """Recordings of those `waiting` that have no chunk `admitted`; chunks recognised again are of none."""
    return {each for each in waiting if each not in admitted and not isinstance(each, Retry)}


def run_isolated(
    items: list[T], run: Callable[[list[T]], None], on_error: Callable[[list[T], Exception], None]
) -> None:
    """Call `run(items)`; where it fails, halve the items until those that fail stand alone.

    `on_error` is called after each failure with the items concerned; raising from it ends the attempt.
    """
    try:
        run(items)
    except Exception as error:
        on_error(items, error)
        if len(items) > 1:
            halve(items, run, on_error)


def halve(items: list[T], run: Callable[[list[T]], None], on_error: Callable[[list[T], Exception], None]) -> None:
    """Run each half of `items` by itself; see `run_isolated`."""
    middle = len(items) // 2
    for half in (items[:middle], items[middle:]):
        run_isolated(half, run, on_error)


def log_failure(logger: logging.Logger, error: Exception, count: int) -> None:
    """Log a failure that concerns `count` chunks, and drop its traceback: the frames hold the batch's tensors."""
    logger.warning("Пакет из %d фрагментов не распознан.", count, exc_info=error)
    error.__traceback__ = None
