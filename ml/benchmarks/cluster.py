"""What a cluster costs a chunk, and what a second replica brings: replicas that sleep, in a Ray on this machine."""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ml.audio.splitter import Chunk
from ml.benchmarks.figures import Line, Run, to_line
from ml.benchmarks.floor import Cost
from ml.benchmarks.load import Answers
from ml.benchmarks.machine import Meter, Usage
from ml.benchmarks.sleeper import Sleeper
from ml.cluster import deployment as serving
from ml.cluster.client import PROJECT, ClusterOptions, joined
from ml.cluster.deployment import Scale
from ml.cluster.replica import ReplicaSpec
from ml.interfaces import SAMPLE_RATE, Engine, RecognitionOptions
from ml.pipeline.recogniser import recognise_with

CHUNK_S = 30.0
SLOTS = 8
# A batch of 8 takes 0.56 s, so a replica does 14 chunks a second, 430 times real time.
BASE_S, ITEM_S = 0.4, 0.02
REPLICA_CPUS = 0.5  # as much as two replicas on one machine want of Ray's count
START_TIMEOUT_S = 300.0
LONELY_S = 0.05  # how long one chunk alone sleeps where the overhead is measured

Figures = Callable[[], dict[str, float]]


@dataclass
class Contender:
    """A way to have chunks recognised, with what was measured of it."""

    name: str
    replicas: int
    engine: Engine
    gauges: Figures


def measure_cluster(chunks: int, calls: int, on_answer: Callable[[], object]) -> list[Line]:
    """`calls` single chunks and one recording of `chunks`, by the sleeper in this process, by 1 and by 2 replicas.

    Single chunks are sent in turns by both ways, so that whatever else the machine does meets both.

    Raises:
        ClusterUnavailableError: no Ray can be started here.
    """
    is_new = serving.connect("", str(PROJECT))
    try:
        with _sleeper(LONELY_S, 0.0) as here, _replicas(1, LONELY_S, 0.0) as there:
            lines = _one_by_one([here, there], calls, on_answer)
        with _sleeper(BASE_S, ITEM_S) as here:
            lines.append(_recording(here, chunks, on_answer))
        for count in (1, 2):
            with _replicas(count, BASE_S, ITEM_S) as there:
                lines.append(_recording(there, chunks, on_answer))
        return [*lines[:-1], replace(lines[-1], ratio=lines[-1].rtfx / lines[-2].rtfx)]
    finally:
        if is_new:
            serving.disconnect()


@contextmanager
def _sleeper(base_s: float, item_s: float) -> Iterator[Contender]:
    sleeper = Sleeper(base_s, item_s, SLOTS)
    try:
        yield Contender("engine", 1, sleeper, sleeper.gauges)
    finally:
        sleeper.close()


@contextmanager
def _replicas(count: int, base_s: float, item_s: float) -> Iterator[Contender]:
    recipe = ReplicaSpec(partial(Sleeper, base_s, item_s, SLOTS), ("sleeper", ""), f"{count} {base_s} {item_s}", 120.0)
    scale = Scale(replicas=count, cpus=REPLICA_CPUS, max_ongoing=2 * SLOTS)
    with joined(ClusterOptions(scale=scale, start_timeout_s=START_TIMEOUT_S), recipe) as front:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while {pulse.version for pulse in serving.pulses(serving.handle())} != {recipe.version} or (
            front.watch.ready != count and time.monotonic() < deadline_s
        ):
            time.sleep(serving.STATUS_POLL_S)

        def figures() -> dict[str, float]:
            heard = serving.pulses(serving.handle())
            return {name: sum(pulse.figures[name] for pulse in heard) for name in heard[0].figures}

        yield Contender("ray", count, front.engine, figures)


def _one_by_one(contenders: list[Contender], calls: int, on_answer: Callable[[], object]) -> list[Line]:
    latencies: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    meter, waveform = Meter(torch.device("cpu")), _chunk(0).waveform
    for turn in range(calls + 1):
        for contender in contenders:
            started_s = time.perf_counter()
            contender.engine.submit(waveform, turn).result()
            if turn:  # the first warms up
                latencies[contender.name].append(time.perf_counter() - started_s)
        on_answer()
    usage, name = meter.read(), f"one chunk of {CHUNK_S:g} s"
    lines = []
    for contender in contenders:
        own = latencies[contender.name]
        lines.append(_line(name, contender, own, calls, replace(usage, elapsed_s=sum(own)), {}))
    return [replace(line, over_bare_s=line.p50_s - lines[0].p50_s) for line in lines]


def _recording(contender: Contender, chunks: int, on_answer: Callable[[], object]) -> Line:
    recognise = recognise_with(contender.engine, window=4 * SLOTS * contender.replicas)
    before, meter, latencies = contender.gauges(), Meter(torch.device("cpu")), []
    started_s = time.perf_counter()
    waiting = (_chunk(number) for number in range(chunks))
    for _ in recognise(waiting, threading.Event(), RecognitionOptions()):
        latencies.append(time.perf_counter() - started_s)
        on_answer()
    usage, after = meter.read(), contender.gauges()
    done = {name: after[name] - before[name] for name in after}
    figures = {"n_steps": done["engine_steps"], "stepped_rows": done["engine_stepped_rows"]}
    name = f"a recording of {chunks} chunks"
    return _line(name, contender, [statistics.mean(latencies)], chunks, usage, figures)


def _line(
    name: str, contender: Contender, latencies_s: list[float], chunks: int, usage: Usage, figures: dict[str, float]
) -> Line:
    answers = Answers(latencies_s, [0.0], CHUNK_S * chunks, chunks)
    return to_line(name, contender.name, contender.replicas, 1, [Run(answers, usage, figures, Cost(), Cost())])


def _chunk(number: int) -> Chunk:
    """A chunk of its own memory, as from a decoder."""
    n_samples = round(CHUNK_S * SAMPLE_RATE)
    waveform = np.full(n_samples, 1e-3, np.float32)
    return Chunk(waveform, number * n_samples)
