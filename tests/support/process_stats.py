"""Open files, children, threads and memory of a process, read from /proc, and whether they are released."""

import gc
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.support.waiting import wait_until, wait_until_equal

COLLECT_AFTER_S = 0.2
# Pools start their threads on demand and bound them.
POOLS = ("rpc", "idle-watch", "rejection", "health", "reflection", "model-worker", "engine-worker")


def descriptors(pid: int | str = "self") -> Counter[str]:
    """Count the open files of a process by kind or by path."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor that listed the folder
            kinds[re.sub(r":\[\d+\]", "", str(link.readlink()))] += 1
    kinds.pop(f"/proc/{pid}/fd", None)
    return kinds


def descriptor_count(pid: int | str = "self") -> int:
    """Count the open files of a process."""
    return descriptors(pid).total()


def children(pid: int | None = None, running: bool = False) -> list[int]:
    """List the child processes of `pid` (this process by default); with `running`, leave out zombies.

    Processes of a Ray cluster that the tests run are left out: they are not the server's.
    """
    parent_pid = os.getpid() if pid is None else pid
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            of_ray = b"/ray/" in stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == parent_pid and not of_ray and not (running and state == "Z"):
            found.append(int(stat.parent.name))
    return found


def threads() -> Counter[str]:
    """Count this process's Python threads by name, without numbers and without those of pools."""
    names = (re.sub(r"\d+", "N", thread.name) for thread in threading.enumerate())
    return Counter(name for name in names if not name.startswith(POOLS))


def thread_count(pid: int) -> int:
    """Count all threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory_bytes(pid: int, peak: bool = False) -> int:
    """Return the resident memory of a process, at present or at its peak."""
    key = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def held() -> Counter[str]:
    """Count what this process holds: threads, and on Linux open files and children."""
    if sys.platform != "linux":
        return threads()
    return threads() + descriptors() + Counter(f"child {pid}" for pid in children())


def wait_until_released(held: Callable[[], object]) -> None:
    """Wait until `held()` is empty: the transport closes its connections in its own time."""
    with suppress(AssertionError):
        wait_until(lambda: not held(), COLLECT_AFTER_S)
    if held():
        gc.collect()  # an object in a cycle is not held; only now, because a collection is slow
    wait_until_equal(lambda: held() or None, None)
