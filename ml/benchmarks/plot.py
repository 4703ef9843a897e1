"""Draws real-time factor against the number of clients."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ml.benchmarks.figures import Line

WORKLOAD_ENDING = " clients"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Writes the plot of the workloads with clients to `path` (PNG or SVG, by its ending).

    Raises ModuleNotFoundError without matplotlib (requirements-dev.txt).
    """
    from matplotlib.figure import Figure

    series: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
    floors: defaultdict[int, list[float]] = defaultdict(list)
    for line in lines:
        if line.workload.endswith(WORKLOAD_ENDING):
            series[f"{line.strategy}, {line.workers} workers"].append((line.clients, line.rtfx))
            if line.floor_share:
                floors[line.clients].append(line.rtfx / line.floor_share)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label, points in sorted(series.items()):
        axes.plot(*zip(*points, strict=True), marker="o", linestyle="--" if label[0] == "r" else "-", label=label)
    if floors:
        bound = [(clients, sum(values) / len(values)) for clients, values in sorted(floors.items())]
        axes.plot(*zip(*bound, strict=True), color="grey", linestyle=":", label="encoder's matrix products alone")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(floors), [str(clients) for clients in sorted(floors)])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients, each sending a clip, waiting for its text and sending the next")
    axes.set_ylabel("seconds of audio per second")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
