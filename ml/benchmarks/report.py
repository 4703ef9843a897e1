"""Prints the benchmark's lines as a table for people, and writes them as JSON for programs."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import groupby

from ml.benchmarks.figures import Line
from ml.benchmarks.floor import Floor
from ml.benchmarks.stages import STAGES

MEBIBYTE = 1024 * 1024


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _stage(name: str) -> Callable[[Line], str]:
    return lambda line: _seconds(line.stages_s[name])


COLUMNS: dict[str, Callable[[Line], str]] = {
    "strategy": lambda line: f"{line.strategy}/{line.workers}",
    "RTFx": lambda line: f"{line.rtfx:.1f}",
    "x ref": lambda line: _times(line.ratio),
    "x cpu": lambda line: _times(line.cpu_ratio),
    "floor": lambda line: _share(line.floor_share),
    "f cpu": lambda line: _share(line.floor_cpu_share),
    "best": lambda line: _share(line.best_floor_share),
    "b cpu": lambda line: _share(line.best_floor_cpu_share),
    "p50": lambda line: _seconds(line.p50_s),
    "p95": lambda line: _seconds(line.p95_s),
    "p99": lambda line: _seconds(line.p99_s),
    "batch": lambda line: f"{line.mean_batch:.1f}",
    "queue": lambda line: _seconds(line.queue_s),
    **{name: _stage(name) for name in STAGES},
    "cpu": lambda line: _seconds(line.cpu_s),
    "MiB": lambda line: f"{(line.device_peak_bytes or line.peak_bytes) / MEBIBYTE:.0f}",
    "others": lambda line: _share(line.others),
}


def to_table(lines: Sequence[Line]) -> str:
    """The lines under their workloads' names."""
    rows = [[show(line) for show in COLUMNS.values()] for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(COLUMNS, *rows, strict=True)]
    text = [_row(COLUMNS, widths)]
    for workload, group in groupby(zip(lines, rows, strict=True), key=lambda pair: pair[0].workload):
        text += ["", f"{workload}:"]
        for line, row in group:
            text.append(_row(row, widths) + _note(line))
    return "\n".join(text)


def to_markdown(lines: Sequence[Line]) -> str:
    """The same table for a page."""
    head = ["workload", *COLUMNS, "note"]
    text = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for line in lines:
        cells = [line.workload, *(show(line) for show in COLUMNS.values()), _note(line).strip()]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def describe(machine: dict[str, str | int], options: dict[str, object]) -> str:
    """A line for the page: on what it was measured, and what."""
    ran_on = ", ".join(f"{name} {machine[name]}" for name in ("processor", "cpus", "device", "torch"))
    told = ("weights", "new_tokens", "ignore_eos", "slots", "quick")  # a cluster that sleeps has none of them
    chosen = ", ".join(f"{name} {options[name]}" for name in told if name in options)
    return f"On: {ran_on}." + (f" Options: {chosen}." if chosen else "")


def to_json(
    lines: Sequence[Line], machine: dict[str, str | int], options: dict[str, object], floor: Floor | None
) -> str:
    """Everything that is known, in seconds and bytes."""
    found = {
        "machine": machine,
        "options": options,
        "floor": floor and asdict(floor),
        "lines": [asdict(line) for line in lines],
    }
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"


def _row(cells: Iterable[str], widths: Sequence[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def _note(line: Line) -> str:
    if line.idle_p50_s is not None:
        return f"   alone {line.idle_p50_s:.3f} s, beside {line.p50_s / line.idle_p50_s:.1f} times that"
    if line.over_bare_s is not None:
        return f"   {line.over_bare_s * 1000:+.1f} ms over the bare call"
    if line.tail_share is not None:
        return f"   {line.p50_s:.2f} s after {line.upload_s:.1f} s of upload: {line.tail_share:.1%} of the unary call"
    if line.workload.startswith("cost"):
        hours, ms = line.audio_s / 3600, 1000 * line.elapsed_s / line.chunks
        return f"   {line.elapsed_s / hours:.1f} s, {line.cpu_s / hours:.1f} CPU s an hour; a chunk {ms:.0f} ms"
    return ""
