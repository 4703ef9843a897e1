"""Wait for a condition: no sleep stands for an event, and no clock decides a test except against a hang."""

import time
from collections.abc import Callable
from typing import TypeVar

HANG_LIMIT_S = 60.0  # far beyond what a busy machine needs: only a hang reaches it
POLL_S = 0.02
STEADY_S = 1.0

T = TypeVar("T")


def wait_until(condition: Callable[[], T], limit_s: float = HANG_LIMIT_S) -> T:
    """Return the first true result of `condition()`; fail after `limit_s`."""
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"still {found!r} after {limit_s:g} s"
        time.sleep(POLL_S)
    return found


def wait_until_equal(measure: Callable[[], object], expected: object, limit_s: float = HANG_LIMIT_S) -> None:
    """Wait until `measure()` equals `expected`; fail after `limit_s` with the last value."""
    deadline_s = time.monotonic() + limit_s
    while (found := measure()) != expected:
        assert time.monotonic() < deadline_s, f"{found!r} instead of {expected!r} after {limit_s:g} s"
        time.sleep(POLL_S)


def wait_until_steady(measure: Callable[[], T], steady_s: float = STEADY_S, limit_s: float = HANG_LIMIT_S) -> T:
    """Return `measure()` once it has not changed for `steady_s`; fail after `limit_s`.

    With a count of sent messages, this is how flow control shows, whatever the sizes of the socket buffers.
    """
    started_s = changed_s = time.monotonic()
    last = measure()
    while (now_s := time.monotonic()) - changed_s < steady_s:
        assert now_s - started_s < limit_s, f"still changing after {limit_s:g} s: {last!r}"
        time.sleep(POLL_S)
        if (found := measure()) != last:
            last, changed_s = found, time.monotonic()
    return last
