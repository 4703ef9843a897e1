"""Keeps the C library's heap from growing with the number of threads."""

import ctypes
import os
import sys
from contextlib import suppress

_M_ARENA_MAX = -8  # mallopt(3)
ARENAS = 2  # as many as threads that often allocate at once: the engine's and one of the others


def share_arenas() -> None:
    """Lets all threads allocate from a few common heaps; to be called before there are many threads.

    By itself glibc makes up to 8 for each processor, which short requests on many threads fill with holes: over 10,000
    of them the server's memory creeps up by some megabytes that nothing uses. Does nothing with another C library, or
    where MALLOC_ARENA_MAX is set (mallopt(3)).
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS)
