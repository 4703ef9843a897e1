"""Simulates how long recordings wait, by load and number of GPUs: `python -m ml.benchmarks.queueing`."""

import argparse
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

CHUNK_S = 30.0

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """What comes in, and how fast a GPU is."""

    mean_length_s: float = 300.0  # of a recording; lengths are lognormal
    spread: float = 1.2  # standard deviation of their logarithm: half are under 146 s, one in a hundred over 40 minutes
    speed: float = 2000.0  # seconds of audio per second of a full GPU
    slots: int = 32  # chunks decoded together on a GPU; each takes as long in a batch as alone

    @property
    def chunk_takes_s(self) -> float:
        """Seconds from a chunk's admission to its text."""
        return self.slots * CHUNK_S / self.speed


def simulate(load: Load, gpus: int, utilisation: float, recordings: int, seed: int = 0) -> Times:
    """Return seconds (recordings,) from each arrival to the last text, with recordings taking turns over all slots.

    Arrivals are Poisson, at the rate that keeps the GPUs busy for `utilisation` of the time. The first tenth, in which
    the queue fills up, is left out.
    """
    draw = np.random.default_rng(seed)
    location = np.log(load.mean_length_s) - load.spread**2 / 2
    chunks = np.ceil(draw.lognormal(location, load.spread, recordings) / CHUNK_S).astype(int)
    rate = utilisation * gpus * load.slots / load.chunk_takes_s / chunks.mean()  # recordings a second
    arrivals = np.cumsum(draw.exponential(1 / rate, recordings))
    ends = _serve(arrivals.tolist(), chunks.tolist(), gpus * load.slots, load.chunk_takes_s)
    return (np.array(ends) - arrivals)[recordings // 10 :]


def _serve(arrivals: list[float], chunks: list[int], slots: int, takes_s: float) -> list[float]:
    """Return when each recording's last chunk ends. All chunks take equally long: they end in order of admission."""
    ends = [0.0] * len(arrivals)
    running: deque[tuple[float, int]] = deque()  # end and recording
    waiting: deque[list[int]] = deque()  # recording and its chunks left, the next in turn first
    coming = 0
    while coming < len(arrivals) or running:
        if running and (coming == len(arrivals) or running[0][0] <= arrivals[coming]):
            now, recording = running.popleft()
            ends[recording] = now
        else:
            now = arrivals[coming]
            waiting.append([coming, chunks[coming]])
            coming += 1
        while waiting and len(running) < slots:
            turn = waiting.popleft()
            running.append((now + takes_s, turn[0]))
            turn[1] -= 1
            if turn[1]:
                waiting.append(turn)
    return ends


def table(load: Load, gpus: Sequence[int], utilisations: Sequence[float], recordings: int) -> dict[int, list[Times]]:
    """Return median, 95th and 99th percentile (3,) in seconds for every utilisation, by number of GPUs."""
    return {
        count: [np.percentile(simulate(load, count, share, recordings), (50, 95, 99)) for share in utilisations]
        for count in gpus
    }


def draw(found: dict[int, list[Times]], utilisations: Sequence[float], path: Path) -> None:
    """Write the plot to `path` (PNG or SVG, by its ending). Needs matplotlib (requirements-dev.txt)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(yscale="log", xlabel="share of the GPUs' time in use")
    for number, (count, rows) in enumerate(found.items()):
        label = "1 GPU, or any number with a queue each" if count == 1 else f"{count} GPUs, shared"
        axes.plot(utilisations, [row[1] for row in rows], color=f"C{number}", marker="o", label=f"{label}: p95")
        axes.plot(utilisations, [row[0] for row in rows], color=f"C{number}", linestyle=":", marker=".", label="median")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylabel("seconds from arrival to the last text")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    """Print the table and draw the plot asked for."""
    parser = argparse.ArgumentParser(
        prog="ml.benchmarks.queueing", description="Сколько ждут записи при разной загрузке"
    )
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 4, 16], metavar="N", help="число видеокарт")
    parser.add_argument("--utilisation", type=float, nargs="+", default=[0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    parser.add_argument("--recordings", type=int, default=20_000, metavar="N", help="записей в каждой точке")
    parser.add_argument("--speed", type=float, default=Load.speed, help="секунд аудио за секунду на одной видеокарте")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="куда нарисовать график")
    flags = parser.parse_args(arguments)
    found = table(Load(speed=flags.speed), flags.gpus, flags.utilisation, flags.recordings)
    print("GPUs   load    p50, s    p95, s    p99, s")
    for count, rows in found.items():
        for share, row in zip(flags.utilisation, rows, strict=True):
            print(f"{count:4d}  {share:5.0%}  " + "  ".join(f"{value:8.2f}" for value in row))
    if flags.plot:
        draw(found, flags.utilisation, flags.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
