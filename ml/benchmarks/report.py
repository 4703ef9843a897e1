"""Writes the benchmark's lines as a table for people, as JSON for programs and as a plot."""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from ml.benchmarks.lines import Line
from ml.benchmarks.roofline import Roofline
from ml.heap import MEBIBYTE

CLIENTS = " clients"  # how the workloads of the plot end
OPTIONS = ("weights", "new_tokens", "ignore_eos", "slots", "quick")  # those that the page's first line names


def _share(value: float | None) -> str:
    return f"{value:.0%}" if value else ""


def _times(value: float | None) -> str:
    return f"{value:.2f}x" if value else ""


def _number(value: float) -> str:
    """Blank for what was not measured."""
    return f"{value:.3f}" if 0 < value < 10 else f"{value:.1f}" if value else ""


COLUMNS: dict[str, Callable[[Line], str]] = {
    "strategy": lambda line: f"{line.strategy}/{line.workers}",
    "RTFx": lambda line: f"{line.rtfx:.1f}",
    "x ref": lambda line: _times(line.ratio),
    "x cpu": lambda line: _times(line.cpu_ratio),
    "floor": lambda line: _share(line.floor_share),
    "p50": lambda line: _number(line.p50_s),
    "p95": lambda line: _number(line.p95_s),
    "p99": lambda line: _number(line.p99_s),
    "batch": lambda line: _number(line.mean_batch),
    "queue": lambda line: _number(line.queue_s),
    "encode": lambda line: _number(line.stats.get("encode_s", 0.0)),
    "prefill": lambda line: _number(line.stats.get("prefill_s", 0.0)),
    "steps": lambda line: _number(line.stats.get("step_s", 0.0)),
    "cpu": lambda line: _number(line.cpu_s),
    "MiB": lambda line: _number(line.peak_bytes / MEBIBYTE),
    "others": lambda line: _share(line.others),
    "of this workload": lambda line: ", ".join(f"{name} {value:.3g}" for name, value in line.extra.items()),
}


def to_table(lines: Sequence[Line]) -> str:
    """Return the lines as a Markdown table with even columns, for a terminal and for a page."""
    rows = [["workload", *COLUMNS]]
    rows += [[line.workload, *(show(line) for show in COLUMNS.values())] for line in lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def to_markdown(lines: Sequence[Line], machine: dict[str, str | int], options: dict[str, object]) -> str:
    """Return the table under a line that names machine and options."""
    ran_on = ", ".join(f"{name} {machine[name]}" for name in ("processor", "cpus", "device", "torch"))
    chosen = ", ".join(f"{name} {options[name]}" for name in OPTIONS)
    return f"On: {ran_on}. Options: {chosen}.\n\n{to_table(lines)}\n"


def to_json(
    lines: Sequence[Line], machine: dict[str, str | int], options: dict[str, object], floor: Roofline | None
) -> str:
    """Return all figures, in seconds and bytes."""
    found = {
        "machine": machine,
        "options": options,
        "roofline": floor and asdict(floor),
        "lines": [{**asdict(line), "rtfx": line.rtfx} for line in lines],
    }
    return json.dumps(found, ensure_ascii=False, indent=2, default=str) + "\n"


def draw(lines: Sequence[Line], path: Path) -> None:
    """Plot seconds of audio per second against the number of clients into `path` (PNG or SVG, by its ending).

    Raises ModuleNotFoundError without matplotlib (requirements-dev.txt).
    """
    from matplotlib.figure import Figure

    series: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for line in (line for line in lines if line.workload.endswith(CLIENTS)):
        series[f"{line.strategy}, {line.workers} workers"][line.clients] = line.rtfx
        if line.floor_share and line.strategy == "engine":
            series["encoder's matrix products alone"][line.clients] = line.rtfx / line.floor_share
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(ylabel="seconds of audio per second")
    axes.set_xlabel("clients, each sending a clip, waiting for its text and sending the next")
    for label, points in sorted(series.items()):
        axes.plot(list(points), list(points.values()), marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(clients := sorted(set().union(*series.values())), [str(count) for count in clients])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
