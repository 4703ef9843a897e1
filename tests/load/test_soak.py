"""A short soak, and that a soak would notice what it is there for."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.load.report import problems_of
from tests.load.run import Holdings, Result, soak
from tests.support.memory_growth import grows, slope

MIB = 1024**2
AT_REST = Holdings(requests=100, memory_bytes=90 * MIB, descriptors=9, threads=22, children=0)
GOOD = Result([0.1] * 100, Counter({("wav", "OK"): 100}), Counter(), [], AT_REST, AT_REST, [], 0)


def test_a_soak_that_loses_and_leaks_nothing_passes() -> None:
    assert problems_of(GOOD, 100) == []


BAD = {
    "a lost request": replace(GOOD, lost=Counter({("wav", "WRONG"): 1})),
    "no requests": replace(GOOD, latencies_s=[]),
    "a descriptor": replace(GOOD, at_rest_after=replace(AT_REST, descriptors=10)),
    "threads": replace(GOOD, at_rest_after=replace(AT_REST, threads=40)),
    "a child": replace(GOOD, at_rest_after=replace(AT_REST, children=1)),
    "a file": replace(GOOD, temporary_files=["transcription-1"]),
    "a bad end": replace(GOOD, exit_code=1),
}


@pytest.mark.parametrize("name", BAD)
def test_a_soak_that_loses_or_leaks_something_fails(name: str) -> None:
    assert len(problems_of(BAD[name], 100)) == 1


def growing(bytes_per_request: int, scatter_bytes: int) -> Result:
    """A soak of 5,000 requests with steady growth of memory, and scatter."""
    samples = [
        replace(
            AT_REST,
            requests=number,
            memory_bytes=90 * MIB + number * bytes_per_request + scatter_bytes * (number // 100 % 2),
        )
        for number in range(0, 5000, 100)
    ]
    return replace(GOOD, latencies_s=[0.1] * 5000, samples=samples)


def test_steady_growth_fails_a_soak_and_scatter_does_not() -> None:
    (problem,) = problems_of(growing(bytes_per_request=1024, scatter_bytes=2 * MIB), 5000)
    assert "memory grows by 10" in problem
    assert problems_of(growing(bytes_per_request=0, scatter_bytes=4 * MIB), 5000) == []
    assert problems_of(growing(bytes_per_request=100, scatter_bytes=0), 5000) == []


def test_slope_of_steady_growth_is_exact() -> None:
    per_unit, error = slope([0, 100, 200, 300], [1000, 3000, 5000, 7000])
    assert per_unit == pytest.approx(20)
    assert error < 1e-6


def test_too_few_samples_show_no_growth() -> None:
    assert not grows([0, 1, 2], [0, 10**9, 2 * 10**9], tolerated=0)


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_two_hundred_mixed_requests_lose_and_leak_nothing() -> None:
    result = soak(requests=200, seconds=1000, clients=4, log=lambda line: None)
    assert len(result.latencies_s) == 200
    assert len(result.outcomes) > 20  # of all kinds
    assert problems_of(result, 200) == []
