"""A short soak, and that a soak would notice what it is there for."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.load.report import slope_bytes, verdict
from tests.load.run import Holdings, Result, soak

MIB = 1024**2
AT_REST = Holdings(requests=100, memory_bytes=90 * MIB, descriptors=9, threads=22, children=0)
GOOD = Result([0.1] * 100, Counter({("wav", "OK"): 100}), Counter(), [], AT_REST, AT_REST, [], 0)


def test_a_soak_that_loses_and_leaks_nothing_passes() -> None:
    assert verdict(GOOD, 100) == []


BAD = {
    "a lost request": replace(GOOD, lost=Counter({("wav", "WRONG"): 1})),
    "no requests": replace(GOOD, latencies_s=[]),
    "memory": replace(GOOD, at_rest_after=replace(AT_REST, memory_bytes=120 * MIB)),
    "a descriptor": replace(GOOD, at_rest_after=replace(AT_REST, descriptors=10)),
    "threads": replace(GOOD, at_rest_after=replace(AT_REST, threads=40)),
    "a child": replace(GOOD, at_rest_after=replace(AT_REST, children=1)),
    "a file": replace(GOOD, temporary_files=["transcription-1"]),
    "a bad end": replace(GOOD, exit_code=1),
}


@pytest.mark.parametrize("name", BAD)
def test_a_soak_that_loses_or_leaks_something_fails(name: str) -> None:
    assert len(verdict(BAD[name], 100)) == 1


def growing(bytes_per_request: int, scatter_bytes: int) -> Result:
    """A soak of 5,000 requests whose memory grows so, and goes up and down by so much besides."""
    samples = [
        replace(
            AT_REST,
            requests=number,
            memory_bytes=90 * MIB + number * bytes_per_request + scatter_bytes * (number // 100 % 2),
        )
        for number in range(0, 5000, 100)
    ]
    return replace(GOOD, latencies_s=[0.1] * 5000, samples=samples)


def test_steady_growth_fails_a_soak_and_ups_and_downs_do_not() -> None:
    (problem,) = verdict(growing(bytes_per_request=1024, scatter_bytes=2 * MIB), 5000)
    assert "memory grows by 10" in problem
    assert verdict(growing(bytes_per_request=0, scatter_bytes=4 * MIB), 5000) == []
    assert verdict(growing(bytes_per_request=100, scatter_bytes=0), 5000) == []


def test_growth_is_measured_per_thousand_requests() -> None:
    samples = [
        replace(AT_REST, requests=number, memory_bytes=90 * MIB + number * 2048) for number in range(0, 5000, 100)
    ]
    slope, error = slope_bytes(samples)
    assert slope == pytest.approx(2048 * 1000)
    assert error < 1


@pytest.mark.slow
@pytest.mark.soak
def test_two_hundred_mixed_requests_lose_and_leak_nothing() -> None:
    result = soak(200, 240, 4, lambda line: None)
    assert len(result.latencies_s) == 200
    assert len(result.outcomes) > 20  # of all kinds
    assert verdict(result, 200) == []
