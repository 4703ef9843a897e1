"""The lines of the benchmark's table, from the measurements behind them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median

import numpy as np

from ml.benchmarks.meter import Usage


@dataclass(frozen=True)
class Run:
    """One measurement: what the clients saw, and what it took."""

    latencies_s: Sequence[float]  # from sending to the text
    audio_s: float
    chunks: int
    usage: Usage
    waited_s: Sequence[float] = (0.0,)  # of the latencies, for a worker
    stats: dict[str, float] = field(default_factory=dict)  # what EngineStats counted meanwhile
    floor_s: float | None = None  # the least time this work can take


@dataclass(frozen=True)
class Line:
    """A workload run by a strategy. Where there were several runs, medians over them."""

    workload: str
    strategy: str
    workers: int  # requests handled at once
    clients: int
    requests: int  # of all runs together, as are the latencies
    chunks: int  # of one run
    audio_s: float
    elapsed_s: float
    cpu_s: float
    others: float  # share of the machine's processor time that other processes took
    peak_bytes: int
    p50_s: float
    p95_s: float
    p99_s: float
    queue_s: float  # mean wait: of a request for a worker plus, in the engine, of a chunk until it is encoded
    stats: dict[str, float]  # see Run
    floor_share: float | None = None
    ratio: float | None = None  # times the reference's throughput
    cpu_ratio: float | None = None  # the reference's processor time over this one's
    extra: dict[str, float] = field(default_factory=dict)  # what is measured of this workload alone

    @property
    def rtfx(self) -> float:
        """Seconds of audio per second."""
        return self.audio_s / self.elapsed_s

    @property
    def mean_batch(self) -> float:
        """Rows of a decode step."""
        return self.stats.get("stepped_rows", 0.0) / max(1.0, self.stats.get("steps", 0.0))


def to_line(
    workload: str, strategy: str, workers: int, clients: int, runs: Sequence[Run], reference: Sequence[Run] = ()
) -> Line:
    """Sum up the runs of one strategy; `reference` holds the reference's run of each round, if it took part."""
    latencies_s = [latency_s for run in runs for latency_s in run.latencies_s]
    p50_s, p95_s, p99_s = np.percentile(latencies_s, (50, 95, 99)).tolist()
    stats = {name: median(run.stats[name] for run in runs) for name in runs[0].stats}
    waited_s = mean(waited_s for run in runs for waited_s in run.waited_s)
    floors = [run.floor_s / run.usage.elapsed_s for run in runs if run.floor_s is not None]
    pairs = [(run.usage, other.usage) for run, other in zip(runs, reference, strict=False)]
    cpu_ratios = [other.cpu_s / own.cpu_s for own, other in pairs if own.cpu_s]  # a short run may have no tick
    return Line(
        workload,
        strategy,
        workers,
        clients,
        requests=len(latencies_s),
        chunks=runs[0].chunks,
        audio_s=runs[0].audio_s,
        elapsed_s=median(run.usage.elapsed_s for run in runs),
        cpu_s=median(run.usage.cpu_s for run in runs),
        others=mean(run.usage.others for run in runs),
        peak_bytes=max(run.usage.peak_bytes for run in runs),
        p50_s=p50_s,
        p95_s=p95_s,
        p99_s=p99_s,
        queue_s=waited_s + stats.get("waited_s", 0.0) / max(1, runs[0].chunks),
        stats=stats,
        floor_share=median(floors) if floors else None,
        ratio=median(other.elapsed_s / own.elapsed_s for own, other in pairs) if pairs else None,
        cpu_ratio=median(cpu_ratios) if cpu_ratios else None,
    )


def one_by_one(workload: str, strategy: str, latencies_s: Sequence[float], audio_s: float) -> Line:
    """Sum up calls made one after the other, each of one chunk; `audio_s` is the length of all."""
    run = Run(latencies_s, audio_s, len(latencies_s), Usage(sum(latencies_s)))
    return to_line(workload, strategy, 1, 1, [run])
