"""What the engine must reach, beside what a run of the benchmark found."""

from collections.abc import Callable, Iterable, Sequence

from ml.benchmarks.figures import Line

CALL_LIMIT_S = 0.010  # that gRPC and scheduling may take
LINEAR = 0.05  # how far the cost of an hour may be from that of the longest file's
RPC_HEADROOM = {"cpu": 4.0, "cuda": 2.0}  # times a clip's latency on an idle server
FLOOR = 0.7
CLIPS = {10: 1.5, 32: 2.0}  # times the reference's throughput, by workers
FILE = 1.5
REPLICAS = 1.8  # times the throughput of one replica, by two
CHUNK_LIMIT_S = 0.015  # that a cluster may add to a chunk of 30 s


def to_aims(lines: Sequence[Line], device_type: str) -> str:
    """A table for the page, with a row for each aim that the lines say something about."""
    rows = [*_clips(lines), *_file(lines), *_beside(lines, RPC_HEADROOM[device_type]), *_calls(lines), *_lengths(lines)]
    rows += _cluster(lines)
    return "\n".join(["| workload | wanted | found | by processor time |", "|---|---|---|---|", *rows])


def _row(workload: str, wanted: str, reached: bool, found: str, by_cpu: str = "") -> str:
    return f"| {workload} | {wanted} | {'reached' if reached else '**not reached**'}: {found} | {by_cpu} |"


def _throughput(line: Line, name: str, aim: float) -> str:
    ratio, cpu_ratio = line.ratio or 0.0, line.cpu_ratio or 0.0
    return _row(name, f"{aim:g}x the reference", ratio >= aim, f"{ratio:.2f}x", f"{cpu_ratio:.2f}x")


def _clips(lines: Sequence[Line]) -> Iterable[str]:
    for line in _engine(lines, lambda line: " clips of " in line.workload):
        if line.workers in CLIPS:
            yield _throughput(line, f"{line.workload}, {line.workers} workers", CLIPS[line.workers])
    shares = [line for line in _engine(lines, lambda line: " clips of " in line.workload) if line.floor_share]
    for line in shares[-1:]:
        found, cpu = line.floor_share or 0.0, line.floor_cpu_share or 0.0
        yield _row(f"{line.workload}, of the floor", f"{FLOOR:.0%}", found >= FLOOR, f"{found:.0%}", f"{cpu:.0%}")


def _file(lines: Sequence[Line]) -> Iterable[str]:
    for line in _engine(lines, lambda line: line.workload.startswith("a file of ")):
        yield _throughput(line, line.workload, FILE)


def _beside(lines: Sequence[Line], aim: float) -> Iterable[str]:
    for line in _engine(lines, lambda line: line.idle_p50_s is not None):
        times = line.p50_s / (line.idle_p50_s or 1.0)
        yield _row(line.workload, f"{aim:g} times its latency alone", times <= aim, f"{times:.1f} times")


def _calls(lines: Sequence[Line]) -> Iterable[str]:
    by_way = {line.strategy: line for line in lines if line.workload == "one call"}
    if "gRPC" in by_way:
        over_s = by_way["gRPC"].over_bare_s or 0.0
        over_engine_s = by_way["gRPC"].p50_s - by_way["engine"].p50_s
        found = f"{over_s * 1000:+.1f} ms, over the engine in process {over_engine_s * 1000:+.1f} ms"
        yield _row("gRPC over the bare call, p50", f"{CALL_LIMIT_S * 1000:g} ms", over_s <= CALL_LIMIT_S, found)


def _lengths(lines: Sequence[Line]) -> Iterable[str]:
    costs = [line for line in lines if line.workload.startswith("cost")]
    if costs:
        costs.sort(key=lambda line: line.audio_s / line.requests)
        amounts: dict[str, Callable[[Line], float]] = {
            "an hour of audio": lambda line: line.audio_s,
            "a chunk": lambda line: line.chunks,
        }
        for name, amount in amounts.items():
            off = _furthest([line.elapsed_s / amount(line) for line in costs])
            cpu_off = _furthest([line.cpu_s / amount(line) for line in costs])
            yield _row(f"cost of {name}", f"within {LINEAR:.0%}", off <= LINEAR, f"{off:.0%}", f"{cpu_off:.0%}")


def _cluster(lines: Sequence[Line]) -> Iterable[str]:
    for line in (line for line in lines if line.strategy == "ray"):
        if line.over_bare_s is not None:
            reached, found = line.over_bare_s <= CHUNK_LIMIT_S, f"{line.over_bare_s * 1000:+.1f} ms"
            yield _row(f"a replica's way, {line.workload}, p50", f"{CHUNK_LIMIT_S * 1000:g} ms", reached, found)
        if line.ratio is not None:
            name = f"two replicas over one, {line.workload}"
            yield _row(name, f"{REPLICAS:g}x", line.ratio >= REPLICAS, f"{line.ratio:.2f}x")


def _furthest(values: Sequence[float]) -> float:
    """How far any of them is from the last, as a share of it."""
    return max(abs(value / values[-1] - 1) for value in values)


def _engine(lines: Sequence[Line], wanted: Callable[[Line], bool]) -> list[Line]:
    return [line for line in lines if line.strategy == "engine" and wanted(line)]
