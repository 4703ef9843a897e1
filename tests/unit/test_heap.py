"""The heaps of the C library, in a process of their own."""

import os
import platform
import subprocess
import sys

import pytest

from api.grpc.heap import ARENAS

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own")

ALLOCATING = """
import ctypes, sys, threading
from api.grpc import heap
if "shared" in sys.argv:
    heap.share_arenas()
libc, all_there = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = ctypes.c_void_p
def allocate():
    all_there.wait()
    libc.malloc(2000)
    all_there.wait()
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
    """How many there are once eight threads have allocated at once."""
    environment = {key: value for key, value in os.environ.items() if key != "MALLOC_ARENA_MAX"} | settings
    command = [sys.executable, "-c", ALLOCATING, *arguments]
    said = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    return said.count("<heap nr=")


def test_threads_share_two_heaps() -> None:
    assert heaps("shared") == ARENAS < heaps()


def test_what_the_operator_says_of_heaps_stands() -> None:
    assert heaps("shared", MALLOC_ARENA_MAX="1") == 1
