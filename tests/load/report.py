"""Reads a soak's result: a table of the measurements, and whether anything was lost or leaked."""

import math

import numpy as np

from tests.load.run import WARM_UP_SHARE, Result, line_of
from tests.support.memory_growth import grows, slope

MIB = 1024**2
MAX_MORE_THREADS = 16  # grpc's own pool follows the load and the processors
TOLERATED_BYTES = 256  # per request: less than any leak of a call or of a recording
MIN_WARM_UP = 2000  # requests; until then every kind meets every other for the first time, and memory grows with that


def after_warm_up(result: Result) -> tuple[list[int], list[int]]:
    """Return the requests made and the memory in bytes of the samples that count."""
    warm_up = max(len(result.latencies_s) * WARM_UP_SHARE, MIN_WARM_UP)
    samples = [sample for sample in result.samples if sample.requests > warm_up]
    return [sample.requests for sample in samples], [sample.memory_bytes for sample in samples]


def show(result: Result) -> None:
    """Print the measurements."""
    print(f"\n{'kind':<24}{'outcome':<22}{'count':>7}")
    for (kind, outcome), count in sorted(result.outcomes.items()):
        print(f"{kind:<24}{outcome:<22}{count:>7}{'   LOST' if (kind, outcome) in result.lost else ''}")
    latencies_ms = np.array(result.latencies_s or [math.nan]) * 1000
    p50, p95, p99 = np.percentile(latencies_ms, (50, 95, 99))
    print(f"\nrequests {len(result.latencies_s)}   lost {result.lost.total()}")
    print(f"latency p50 {p50:.0f} ms   p95 {p95:.0f} ms   p99 {p99:.0f} ms   max {latencies_ms.max():.0f} ms")
    per_request, error = slope(*after_warm_up(result))
    finding = "BEYOND NOISE" if grows(*after_warm_up(result), TOLERATED_BYTES) else "within noise"
    finding = "too few requests to tell" if math.isnan(per_request) else finding
    print(f"memory after warm-up {per_request:+.0f} ± {error:.0f} bytes per request: {finding}")
    for name, holdings in (("after warm-up", result.at_rest_before), ("at the end", result.at_rest_after)):
        if holdings:
            print(f"at rest {name:<14}{line_of(holdings)}")
    print(f"temporary files left {len(result.temporary_files)}   exit code after SIGTERM {result.exit_code}")


def problems_of(result: Result, requests: int) -> list[str]:
    """Describe what was lost or leaked; empty if nothing was."""
    before, after = result.at_rest_before, result.at_rest_after
    assert before and after
    lost = [f"{kind} ended in {outcome}, {count} times" for (kind, outcome), count in result.lost.items()]
    per_request, error = slope(*after_warm_up(result))
    checks = {
        f"memory grows by {per_request:.0f} ± {error:.0f} bytes per request": grows(
            *after_warm_up(result), TOLERATED_BYTES
        ),
        f"no request was made, of {requests}": not result.latencies_s,
        f"descriptors grew from {before.descriptors} to {after.descriptors}": after.descriptors > before.descriptors,
        f"threads grew from {before.threads} to {after.threads}": after.threads > before.threads + MAX_MORE_THREADS,
        f"{after.children} child processes are left": after.children > 0,
        f"temporary files are left: {result.temporary_files}": bool(result.temporary_files),
        f"the server ended with code {result.exit_code}": result.exit_code != 0,
    }
    return lost + [problem for problem, is_so in checks.items() if is_so]
