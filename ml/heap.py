"""Fixed limits for the C library's heap."""

import ctypes
import os
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)
MEBIBYTE = 1024 * 1024
# Name in the environment, which has precedence: (parameter, value) for mallopt.
MALLOC_OPTIONS = {
    "MALLOC_ARENA_MAX": (_M_ARENA_MAX, 2),
    "MALLOC_MMAP_THRESHOLD_": (_M_MMAP_THRESHOLD, 32 * MEBIBYTE),
    "MALLOC_TRIM_THRESHOLD_": (_M_TRIM_THRESHOLD, 64 * MEBIBYTE),
}


def release_free_memory() -> None:
    """Return to the system what malloc keeps after much has been freed: gigabytes after a model is loaded."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library, such as musl
            ctypes.CDLL(None).malloc_trim(0)


def tune_malloc() -> None:
    """Let glibc share two heaps among all threads and keep up to 64 MiB of each; call it before threads start.

    By default it makes up to 8 heaps for each processor, which short requests on many threads fill with holes: over
    10,000 of them the server's memory grows by some megabytes that nothing uses. And it returns the encoder's
    intermediate results to the system after every chunk, until it happens to have freed a block of 32 MiB: to get
    them again cost 2,300 to 3,800 page faults a call of 10 s. Does nothing with another C library (mallopt(3)).
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library, such as musl
            mallopt = ctypes.CDLL(None).mallopt
            for name, (parameter, value) in MALLOC_OPTIONS.items():
                if name not in os.environ:
                    mallopt(parameter, value)
