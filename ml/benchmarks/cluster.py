"""What a cluster costs a chunk, and what a second replica brings: replicas that sleep, in a Ray on this machine."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ml.audio.splitter import Chunk
from ml.benchmarks.lines import Line, Run, to_line
from ml.benchmarks.load import Answers
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


@dataclass(frozen=True)
class Contender:
    """A way to have chunks recognised."""

    name: str
    replicas: int
    engine: Engine


def measure_cluster(chunks: int, calls: int, on_answer: Callable[[], object]) -> list[Line]:
    """Send `calls` single chunks and one recording of `chunks` to a sleeper here, to one replica and to two.

    Single chunks take turns, so that whatever else the machine does meets both. Raises ClusterUnavailableError where
    no Ray can be started.
    """
    is_new = connect("")
    try:
        with closing(Sleeper(SINGLE_S)) as local, _replicas(1, SINGLE_S) as remote:
            lines = _one_by_one([Contender("engine", 1, local), remote], calls, on_answer)
        with closing(Sleeper(TAKES_S)) as local:
            lines.append(_recording(Contender("engine", 1, local), chunks, on_answer))
        for count in (1, 2):
            with _replicas(count, TAKES_S) as remote:
                lines.append(_recording(remote, chunks, on_answer))
        return [*lines[:-1], replace(lines[-1], extra={"times_one_replica": lines[-1].rtfx / lines[-2].rtfx})]
    finally:
        if is_new:
            disconnect()


@contextmanager
def _replicas(count: int, takes_s: float) -> Iterator[Contender]:
    spec = ReplicaSpec(partial(Sleeper, takes_s), ("sleeper", ""), f"{count} {takes_s}", 120.0)
    scale = Scale(replicas=count, cpus=REPLICA_CPUS, max_ongoing=2 * SLOTS)
    with open_client(ClusterOptions(scale=scale, start_timeout_s=START_TIMEOUT_S), spec) as client:
        application, deadline_s = Application(), time.monotonic() + START_TIMEOUT_S
        while [status.version for status in application.statuses()] != count * [spec.version]:
            if time.monotonic() > deadline_s:
                raise ClusterUnavailableError(f"На кластере Ray не стало реплик: {count}")
            time.sleep(POLL_S)
        yield Contender("ray", count, client.engine)


def _one_by_one(contenders: list[Contender], calls: int, on_answer: Callable[[], object]) -> list[Line]:
    latencies: list[list[float]] = [[] for _ in contenders]
    meter, waveform = Meter(torch.device("cpu")), _chunk(0).waveform
    for turn in range(calls + 1):
        for contender, own in zip(contenders, latencies, strict=True):
            started_s = time.perf_counter()
            contender.engine.submit(waveform, turn).result()
            own.append(time.perf_counter() - started_s)
        on_answer()
    usage, lines = meter.read(), []
    for contender, own in zip(contenders, latencies, strict=True):
        del own[0]  # the first one warms up
        run = Run(Answers(own, audio_s=CHUNK_S * calls, chunks=calls), replace(usage, elapsed_s=sum(own)))
        lines.append(to_line(f"one chunk of {CHUNK_S:g} s", contender.name, contender.replicas, 1, [run]))
    here, there = lines
    return [here, replace(there, extra={"ms_over_engine": (there.p50_s - here.p50_s) * 1000})]


def _recording(contender: Contender, chunks: int, on_answer: Callable[[], object]) -> Line:
    recognise = recognise_with(contender.engine, window=4 * SLOTS * contender.replicas)
    meter = Meter(torch.device("cpu"))
    for _ in recognise(map(_chunk, range(chunks)), threading.Event(), RecognitionOptions()):
        on_answer()
    usage = meter.read()
    run = Run(Answers([usage.elapsed_s], audio_s=CHUNK_S * chunks, chunks=chunks), usage)
    return to_line(f"a recording of {chunks} chunks", contender.name, contender.replicas, 1, [run])


def _chunk(number: int) -> Chunk:
    """A chunk of its own memory, as from a decoder."""
    n_samples = round(CHUNK_S * SAMPLE_RATE)
    return Chunk(np.full(n_samples, 1e-3, np.float32), number * n_samples)
