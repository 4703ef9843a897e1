"""One line of the benchmark's table, from the measurements behind it."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ml.benchmarks.floor import Cost
from ml.benchmarks.load import Answers
from ml.benchmarks.machine import Usage
from ml.benchmarks.stages import STAGES


@dataclass(frozen=True)
class Run:
    """One measurement: what the clients saw, what it took, what the strategy counted, and the floor beside it."""

    answers: Answers
    usage: Usage
    figures: dict[str, float]
    floor: Cost  # the least that this work costs, by torch's own products
    best_floor: Cost  # by the fastest found

    @property
    def stages_s(self) -> dict[str, float]:
        """Seconds by stage, summed over threads."""
        found = {**self.figures, "decode": self.answers.decode_s, "split": self.answers.split_s}
        return {stage: found.get(stage, 0.0) for stage in STAGES}

    @property
    def queue_s(self) -> float:
        """Mean wait of a request for a worker and, in the engine, of a chunk to be encoded."""
        chunks = self.answers.chunks
        return statistics.mean(self.answers.waited_s) + (self.figures.get("waited_s", 0.0) / chunks if chunks else 0.0)


@dataclass(frozen=True)
class Line:
    """A workload run by a strategy. Times are in seconds; where there were several runs, medians over them."""

    workload: str
    strategy: str
    workers: int  # requests handled at once
    clients: int
    requests: int  # of all runs together, as are the latencies
    chunks: int  # of one run
    audio_s: float
    elapsed_s: float
    cpu_s: float
    rtfx: float  # seconds of audio per second
    p50_s: float
    p95_s: float
    p99_s: float
    mean_batch: float  # chunks decoded together, mean over decode steps
    queue_s: float  # mean wait: of a request for a worker and of a chunk in the engine
    stages_s: dict[str, float]  # summed over threads
    peak_bytes: int
    device_peak_bytes: int
    others: float | None  # share of the machine's processor time taken by other processes
    # The floor's share of the time and of the processor time; by torch's own products, and by the fastest found.
    floor_share: float | None = None
    floor_cpu_share: float | None = None
    best_floor_share: float | None = None
    best_floor_cpu_share: float | None = None
    ratio: float | None = None  # times the reference's throughput, with as many workers and clients
    cpu_ratio: float | None = None  # the reference's processor time over this one's
    idle_p50_s: float | None = None  # latency without the long file beside
    over_bare_s: float | None = None  # p50 above that of the bare model call
    upload_s: float | None = None  # of a streamed recording; p50 then counts from when its last byte has left
    tail_share: float | None = None  # p50 over the unary call's processing time


def to_line(workload: str, strategy: str, workers: int, clients: int, runs: Sequence[Run]) -> Line:
    """Sums up the runs of one strategy over one workload."""
    latencies = [latency for run in runs for latency in run.answers.latencies_s]
    elapsed_s = statistics.median(run.usage.elapsed_s for run in runs)
    p50_s, p95_s, p99_s = (float(np.percentile(latencies, share)) for share in (50, 95, 99))
    audio_s = runs[0].answers.audio_s
    others = [run.usage.others for run in runs if run.usage.others is not None]
    return Line(
        workload=workload,
        strategy=strategy,
        workers=workers,
        clients=clients,
        requests=len(latencies),
        chunks=runs[0].answers.chunks,
        audio_s=audio_s,
        elapsed_s=elapsed_s,
        cpu_s=statistics.median(run.usage.cpu_s for run in runs),
        rtfx=audio_s / elapsed_s,
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        mean_batch=_mean_batch(runs),
        queue_s=statistics.mean(run.queue_s for run in runs),
        stages_s={stage: statistics.median(run.stages_s[stage] for run in runs) for stage in STAGES},
        peak_bytes=max(run.usage.peak_bytes for run in runs),
        device_peak_bytes=max(run.usage.device_peak_bytes for run in runs),
        others=statistics.mean(others) if others else None,
    )


def with_ratios(line: Line, runs: Sequence[Run], reference: Sequence[Run]) -> Line:
    """The line with how it compares to the reference: medians over rounds, in each of which both ran."""
    pairs = [(run.usage, other.usage) for run, other in zip(runs, reference, strict=True)]
    return replace(
        line,
        ratio=statistics.median(other.elapsed_s / own.elapsed_s for own, other in pairs),
        cpu_ratio=statistics.median(other.cpu_s / own.cpu_s for own, other in pairs),
    )


def with_floor(line: Line, runs: Sequence[Run]) -> Line:
    """The line with how it compares to the floors measured beside its runs: medians over them."""
    shares = [
        (floor.elapsed_s / run.usage.elapsed_s, floor.cpu_s / run.usage.cpu_s)
        for run in runs
        for floor in (run.floor, run.best_floor)
    ]
    (plain_s, plain_cpu_s), (best_s, best_cpu_s) = (
        [statistics.median(values) for values in zip(*found, strict=True)] for found in (shares[::2], shares[1::2])
    )
    return replace(
        line,
        floor_share=plain_s,
        floor_cpu_share=plain_cpu_s,
        best_floor_share=best_s,
        best_floor_cpu_share=best_cpu_s,
    )


def _mean_batch(runs: Sequence[Run]) -> float:
    steps = sum(run.figures.get("n_steps", 0.0) for run in runs)
    return sum(run.figures.get("stepped_rows", 0.0) for run in runs) / steps if steps else 0.0
