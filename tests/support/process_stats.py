"""What a process holds on to, as the system accounts for it, and what of that is more than before."""

import gc
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SETTLING_S = 10  # the transport closes its connections in its own time
# Their threads come as they are needed and are bounded by the pools.
POOLS = ("rpc", "idle-watch", "rejection", "health", "reflection", "encoder-worker")


def descriptors(pid: int | str = "self") -> Counter[str]:
    """What the process has open, by kind or by path."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that listed the folder
            kinds[re.sub(r":\[\d+\]", "", str(link.readlink()))] += 1
    kinds.pop(f"/proc/{pid}/fd", None)
    return kinds


def children(pid: int, running: bool = False) -> list[int]:
    """The processes that `pid` has started and that are not gone; without those that have ended, if so wanted.

    Those of a Ray cluster that the tests run are not the server's.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            of_ray = b"/ray/" in stat.with_name("cmdline").read_bytes()
        except OSError:
            continue
        if int(parent) == pid and not of_ray and not (running and state == "Z"):
            found.append(int(stat.parent.name))
    return found


def threads() -> Counter[str]:
    """This process's Python threads by name, without numbers and without those of pools."""
    names = (re.sub(r"\d+", "N", thread.name) for thread in threading.enumerate())
    return Counter(name for name in names if not name.startswith(POOLS))


def thread_count(pid: int) -> int:
    """All threads of a process."""
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def memory_bytes(pid: int, peak: bool = False) -> int:
    """Resident memory of a process, now or at most."""
    key = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"{key}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def assert_settles(what: Callable[[], object], wanted: object = None, patience_s: float = SETTLING_S) -> None:
    """Waits until `what()` is `wanted`, or empty."""
    started_s, collected = time.monotonic(), False
    while (found := what()) != wanted and (found or wanted):
        waited_s = time.monotonic() - started_s
        assert waited_s < patience_s, f"{found}, not {wanted}"
        if waited_s > 1 and not collected:  # it is slow, and what merely waits for it is not held
            gc.collect()
            collected = True
        time.sleep(0.02)
