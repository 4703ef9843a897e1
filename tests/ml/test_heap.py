"""The heap of the C library, each time in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from ml.heap import MALLOC_OPTIONS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own")

ALLOCATING = """
import ctypes, sys, threading
from ml import heap
if "shared" in sys.argv:
    heap.tune_malloc()
libc, all_started = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = ctypes.c_void_p
def allocate():
    all_started.wait()
    libc.malloc(2000)
    all_started.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""


def heaps(*arguments: str, **settings: str) -> int:
    """Number of heaps once eight threads have allocated at once."""
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | settings
    command = [sys.executable, "-c", ALLOCATING, *arguments]
    output = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return output.count("<heap nr=")


def test_threads_share_two_heaps() -> None:
    assert heaps("shared") == MALLOC_OPTIONS["MALLOC_ARENA_MAX"][1] < heaps()


def test_a_limit_in_the_environment_has_precedence() -> None:
    assert heaps("shared", MALLOC_ARENA_MAX="1") == 1


def test_memory_once_freed_is_not_fetched_from_the_system_again() -> None:
    """Each block is larger than any before it: by default glibc maps and unmaps it."""
    code = """
import resource, sys
import numpy as np
from ml.heap import tune_malloc
if "tuned" in sys.argv:
    tune_malloc()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for pages in range(1000, 2000, 50):
    np.ones(4096 * pages, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    tuned, default = (
        int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, check=True).stdout)
        for how in ("tuned", "default")
    )
    assert tuned < default / 2
