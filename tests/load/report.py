"""Reads a soak's books: figures for a person, and whether anything was lost or leaked."""

import math

import numpy as np

from tests.load.run import WARM_UP_SHARE, Holdings, Result, line_of

MIB = 1024**2
MAX_GROWTH_BYTES = 16 * MIB  # at rest, over all requests after the warm-up
MAX_MORE_THREADS = 4  # grpc's own pool follows the load
FLAT_BYTES = 256 * 1024  # per 1,000 requests: 256 bytes each, less than any leak of a call or of a recording
SURE = 2  # standard errors
LEAST_WARM_UP = 2000  # requests; until then every kind meets every other for the first time, and memory grows with that


def slope_bytes(samples: list[Holdings]) -> tuple[float, float]:
    """Growth of memory per 1,000 requests and its standard error, by least squares; nan for too few samples."""
    if len(samples) < 4:
        return math.nan, math.nan
    requests = np.array([sample.requests for sample in samples]) / 1000
    memory = np.array([sample.memory_bytes for sample in samples], float)
    coefficients, covariance = np.polyfit(requests, memory, 1, cov=True)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def growth_beyond_noise(slope: float, error: float) -> bool:
    """Whether memory grows per 1,000 requests, in bytes, by more than its own scatter explains."""
    return slope - SURE * error > FLAT_BYTES  # not so where there are too few samples to tell


def after_warm_up(result: Result) -> list[Holdings]:
    """The samples that count."""
    total = len(result.latencies_s)
    return [sample for sample in result.samples if sample.requests > max(total * WARM_UP_SHARE, LEAST_WARM_UP)]


def show(result: Result) -> None:
    """Prints the figures."""
    print(f"\n{'kind':<24}{'outcome':<22}{'count':>7}")
    for (kind, outcome), count in sorted(result.outcomes.items()):
        print(f"{kind:<24}{outcome:<22}{count:>7}{'   LOST' if (kind, outcome) in result.lost else ''}")
    latencies_ms = np.array(result.latencies_s or [math.nan]) * 1000
    p50, p95, p99 = np.percentile(latencies_ms, (50, 95, 99))
    slope, error = slope_bytes(after_warm_up(result))
    print(f"\nrequests {len(result.latencies_s)}   lost {result.lost.total()}")
    print(f"latency p50 {p50:.0f} ms   p95 {p95:.0f} ms   p99 {p99:.0f} ms   max {latencies_ms.max():.0f} ms")
    finding = "BEYOND NOISE" if growth_beyond_noise(slope, error) else "within noise"
    finding = "too few requests to tell" if math.isnan(slope) else finding
    print(f"RSS slope after warm-up {slope / 1024:+.0f} ± {error / 1024:.0f} KiB per 1,000 requests: {finding}")
    for name, holdings in (("after warm-up", result.at_rest_before), ("at the end", result.at_rest_after)):
        if holdings:
            print(f"at rest {name:<14}{line_of(holdings)}")
    print(f"temporary files left {len(result.temporary_files)}   exit code after SIGTERM {result.exit_code}")


def verdict(result: Result, requests: int) -> list[str]:
    """What is wrong; nothing where nothing was lost or leaked."""
    before, after = result.at_rest_before, result.at_rest_after
    assert before and after
    problems = [f"{kind} ended in {outcome}, {count} times" for (kind, outcome), count in result.lost.items()]
    made = len(result.latencies_s)
    slope, error = slope_bytes(after_warm_up(result))
    checks = {
        f"memory grows by {slope / 1024:.0f} ± {error / 1024:.0f} KiB per 1,000 requests": growth_beyond_noise(
            slope, error
        ),
        f"no request was made, of {requests}": made == 0,
        f"memory grew by {(after.memory_bytes - before.memory_bytes) / MIB:.1f} MiB at rest": after.memory_bytes
        - before.memory_bytes
        > MAX_GROWTH_BYTES,
        f"descriptors grew from {before.descriptors} to {after.descriptors}": after.descriptors > before.descriptors,
        f"threads grew from {before.threads} to {after.threads}": after.threads > before.threads + MAX_MORE_THREADS,
        f"{after.children} child processes are left": after.children > 0,
        f"temporary files are left: {result.temporary_files}": bool(result.temporary_files),
        f"the server ended with code {result.exit_code}": result.exit_code != 0,
    }
    return problems + [problem for problem, is_so in checks.items() if is_so]
