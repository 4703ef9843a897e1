"""Micro-batching: a scheduler for models that answer a whole batch of chunks at once."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import ceil
from typing import Protocol

from ml.engine.request import Request
from ml.engine.scheduler import Budget, EngineStats, Heartbeat, log_failure, new_recordings, run_isolated
from ml.transcript import Completion

POLL_S = 0.01  # how soon a new request is admitted while a worker is free, a spare one included, and another busy


class BatchModel(Protocol):
    """What micro-batching needs of a model."""

    max_chunk_samples: int  # longest chunk that the model takes
    batch_size: int  # most chunks in one batch
    workers: int  # batches that may be recognised at the same time, on threads of their own
    spare_workers: int  # more of them, for new recordings while a long one holds the workers
    logger: logging.Logger

    def recognise(self, requests: Sequence[Request]) -> list[Completion]:
        """Recognise a batch; one completion for each request, in order. Called on several threads at once."""

    def is_fatal(self, error: Exception) -> bool:
        """Whether the device is lost, so that every later call would fail as well."""


class MicroBatchScheduler:
    """Admits up to a batch for each free worker, sorted by length so that a batch holds chunks of similar length.

    A chunk of a new recording, one with no chunk in flight, does not wait for those of a long recording: it goes first,
    in a batch without them, and on a spare worker where they hold all others. A recording that has fallen out of flight
    is new as well, so that none starves.
    A batch that fails is halved until the chunks at fault stand alone. See Scheduler for the methods.
    """

    def __init__(self, model: BatchModel) -> None:
        self.max_chunk_samples = model.max_chunk_samples
        self.logger = model.logger
        self.stats = EngineStats()
        self.heartbeat: Heartbeat = _OldestBatch(self)
        self.waiting: Callable[[], Mapping[Hashable, int]] = dict
        self._model = model
        self._changed = threading.Condition()  # guards the fields below; notified when a batch ends
        self._batches: dict[int, tuple[float, list[Request]]] = {}  # number -> start (monotonic) and unsettled requests
        self._number = 0
        self._fatal: Exception | None = None
        self._most_batches = model.workers + model.spare_workers
        self._workers = ThreadPoolExecutor(self._most_batches, thread_name_prefix="engine-worker")

    @property
    def in_flight(self) -> list[Request]:
        """See Scheduler."""
        with self._changed:
            return [request for _, requests in self._batches.values() for request in requests]

    @property
    def running(self) -> int:
        """See Scheduler."""
        return len(self.in_flight)

    @property
    def oldest_start_s(self) -> float | None:
        """When the oldest running batch last made progress, by time.monotonic(); None while idle."""
        with self._changed:
            return min((start_s for start_s, _ in self._batches.values()), default=None)

    def admission_budget(self, waiting: Mapping[Hashable, int]) -> Budget:
        """See Scheduler: a batch for each free worker; less towards the end, so that all workers end together."""
        in_flight = Counter(request.recording_id for request in self.in_flight)
        new = new_recordings(waiting, in_flight)
        free, batch_size = self._free_workers, self._model.batch_size
        if new and new != waiting.keys() and (free or self._has_spare):
            return Budget(min(len(new), batch_size * max(1, free)), new)
        if free:
            share = ceil(sum(waiting.values()) / self._model.workers)
            return Budget(free * min(batch_size, max(1, share)))
        is_beside_long = any(count > 1 for count in in_flight.values())
        if new and is_beside_long and self._has_spare:
            return Budget(min(len(new), batch_size), new)
        return Budget(0)

    def admit(self, requests: list[Request]) -> None:
        """See Scheduler."""
        now_s = time.perf_counter()
        self.stats.waited_s += sum(now_s - request.submitted_s for request in requests)
        by_length = sorted(requests, key=lambda request: len(request.waveform))
        for batch in _even_parts(by_length, max(1, self._free_workers)):
            with self._changed:
                self._number += 1
                number = self._number
                self._batches[number] = time.monotonic(), list(batch)
            self._workers.submit(self._run, number, batch)

    def advance(self) -> None:
        """Wait until a batch ends; while a worker is free, at most POLL_S. Raises a fatal error of the model."""
        with self._changed:
            before = len(self._batches)
            timeout_s = POLL_S if before < self._most_batches else None
            self._changed.wait_for(lambda: len(self._batches) < before or self._fatal is not None, timeout_s)
            if self._fatal is not None:
                raise self._fatal

    def clear(self) -> list[Request]:
        """See Scheduler. Batches that are running end by themselves; their results are dropped."""
        in_flight = self.in_flight
        with self._changed:
            self._batches.clear()
        self._workers.shutdown(wait=False, cancel_futures=True)
        return in_flight

    @property
    def _free_workers(self) -> int:
        with self._changed:
            return max(0, self._model.workers - len(self._batches))

    @property
    def _has_spare(self) -> bool:
        with self._changed:
            return len(self._batches) < self._most_batches

    def _run(self, number: int, batch: list[Request]) -> None:
        """Recognise a batch on a worker's thread and settle its requests."""
        try:
            wanted = [request for request in batch if not request.is_cancelled]
            for request in batch:
                if request.is_cancelled:
                    request.cancel()
            if wanted:
                run_isolated(wanted, lambda part: self._recognise(number, part), self._on_error)
        except Exception as error:  # fatal: the requests stay in flight, to be aborted by the engine
            with self._changed:
                self._fatal = error
                self._changed.notify_all()
            return
        with self._changed:
            self._batches.pop(number, None)
            self._changed.notify_all()

    def _recognise(self, number: int, requests: list[Request]) -> None:
        started_s = time.perf_counter()
        completions = self._model.recognise(requests)
        for request, completion in zip(requests, completions, strict=True):
            request.complete(completion)
        with self._changed:
            self.stats.chunks += len(requests)
            self.stats.groups += 1
            self.stats.steps += 1
            self.stats.stepped_rows += len(requests)
            self.stats.step_s += time.perf_counter() - started_s
            if number in self._batches:  # progress: the watchdog counts from here
                left = [request for request in self._batches[number][1] if request not in requests]
                self._batches[number] = time.monotonic(), left

    def _on_error(self, requests: list[Request], error: Exception) -> None:
        if self._model.is_fatal(error):
            raise error
        log_failure(self.logger, error, len(requests))
        if len(requests) == 1:
            requests[0].fail(error)


class _OldestBatch(Heartbeat):
    """The heartbeat of several workers: that of the batch that has been without progress for longest."""

    def __init__(self, scheduler: MicroBatchScheduler) -> None:
        super().__init__()
        self._scheduler = scheduler

    @property
    def silent_s(self) -> float:
        """See Heartbeat."""
        start_s = self._scheduler.oldest_start_s
        return 0.0 if start_s is None else time.monotonic() - start_s


def _even_parts(requests: list[Request], count: int) -> list[list[Request]]:
    """Up to `count` consecutive parts that differ by at most one request, none of them empty."""
    count = min(count, len(requests))
    bounds = [len(requests) * part // count for part in range(count + 1)]
    return [requests[start:end] for start, end in pairwise(bounds)]
