"""What a cluster costs a chunk, and what a second replica brings: replicas that sleep, in a Ray on this machine."""

import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from ml.audio.splitter import Chunk
from ml.benchmarks.lines import Line, Run, one_by_one, to_line
from ml.benchmarks.meter import Meter
from ml.cluster.client import ClusterOptions, connect, disconnect, open_client
from ml.cluster.deployment import POLL_S, Application, Scale
from ml.cluster.replica import ReplicaSpec
from ml.errors import ClusterUnavailableError
from ml.interfaces import SAMPLE_RATE, Capabilities, Engine, RecognitionOptions, Waveform
from ml.pipeline.recogniser import recognise_with
from ml.transcript import Completion

CHUNK_S = 30.0
SLOTS = 8
TAKES_S = 0.56  # of a chunk, so that a replica does 14 chunks a second, 430 times real time
SINGLE_S = 0.05  # of a chunk where the overhead is measured
REPLICA_CPUS = 0.5  # so that Ray places two replicas on one machine
START_TIMEOUT_S = 300.0


class Sleeper:
    """An engine of `SLOTS` chunks that sleeps `takes_s` over each, and costs no processor time. Close it."""

    is_alive, busy_without_progress_s, queued_audio_s = True, 0.0, 0.0
    max_chunk_s, capabilities = 30.0, Capabilities()

    def __init__(self, takes_s: float) -> None:
        self._takes_s = takes_s
        self._slots = ThreadPoolExecutor(SLOTS)

    def submit(
        self,
        waveform: Waveform,
        recording_id: Hashable = None,
        options: RecognitionOptions = RecognitionOptions(),  # noqa: B008 (frozen)
    ) -> "Future[Completion]":
        """Queue a waveform (N,); its text is empty."""
        return self._slots.submit(self._recognise)

    def gauges(self) -> dict[str, float]:
        """Nothing is counted."""
        return {}

    def abort_all(self) -> None:
        """Nothing hangs here."""

    def close(self) -> None:
        """End the threads once all chunks are answered."""
        self._slots.shutdown()

    def _recognise(self) -> Completion:
        time.sleep(self._takes_s)
        return Completion("")


def measure_cluster(chunks: int, calls: int) -> list[Line]:
    """Send `calls` single chunks and one recording of `chunks` to a sleeper here, to one replica and to two.

    Single chunks take turns, so that whatever else the machine does meets both. Raises ClusterUnavailableError where
    no Ray can be started.
    """
    is_new = connect("")
    try:
        with closing(Sleeper(SINGLE_S)) as local, _replicas(1, SINGLE_S) as remote:
            lines = _single_chunks(local, remote, calls)
        with closing(Sleeper(TAKES_S)) as local:
            lines.append(_recording("engine", 1, local, chunks))
        for count in (1, 2):
            with _replicas(count, TAKES_S) as remote:
                lines.append(_recording("ray", count, remote, chunks))
        *before, one, two = lines
        return [*before, one, replace(two, extra={"times_one_replica": two.rtfx / one.rtfx})]
    finally:
        if is_new:
            disconnect()


@contextmanager
def _replicas(count: int, takes_s: float) -> Iterator[Engine]:
    spec = ReplicaSpec(partial(Sleeper, takes_s), ("sleeper", ""), f"{count} {takes_s}", 120.0)
    scale = Scale(replicas=count, cpus=REPLICA_CPUS, max_ongoing=2 * SLOTS)
    with open_client(ClusterOptions(scale=scale, start_timeout_s=START_TIMEOUT_S), spec) as client:
        application, deadline_s = Application(), time.monotonic() + START_TIMEOUT_S
        while [status.version for status in application.statuses()] != count * [spec.version]:
            if time.monotonic() > deadline_s:
                raise ClusterUnavailableError(f"На кластере Ray не стало реплик: {count}")
            time.sleep(POLL_S)
        yield client.engine


def _single_chunks(local: Engine, remote: Engine, calls: int) -> list[Line]:
    latencies_s: dict[str, list[float]] = {"engine": [], "ray": []}
    waveform = _chunk(0).waveform
    for turn in tqdm(range(calls + 1), "cluster", leave=False, disable=None):
        for engine, own in zip((local, remote), latencies_s.values(), strict=True):
            started_s = time.perf_counter()
            engine.submit(waveform, turn).result()
            own.append(time.perf_counter() - started_s)
    name = f"one chunk of {CHUNK_S:g} s"  # of each the first one warms up
    here, there = (one_by_one(name, strategy, own[1:], CHUNK_S * calls) for strategy, own in latencies_s.items())
    return [here, replace(there, extra={"ms_over_engine": (there.p50_s - here.p50_s) * 1000})]


def _recording(strategy: str, replicas: int, engine: Engine, chunks: int) -> Line:
    recognise = recognise_with(engine, window=4 * SLOTS * replicas)
    meter = Meter(torch.device("cpu"))
    completions = recognise(map(_chunk, range(chunks)), threading.Event(), RecognitionOptions())
    for _ in tqdm(completions, "cluster", chunks, leave=False, disable=None):
        pass
    usage = meter.read()
    run = Run([usage.elapsed_s], CHUNK_S * chunks, chunks, usage)
    return to_line(f"a recording of {chunks} chunks", strategy, replicas, 1, [run])


def _chunk(number: int) -> Chunk:
    """A chunk of its own memory, as from a decoder."""
    n_samples = round(CHUNK_S * SAMPLE_RATE)
    return Chunk(np.full(n_samples, 1e-3, np.float32), number * n_samples)
