"""Tests. NumPy's OpenBLAS uses one thread: its threads spin, which a busy machine pays for many times over."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported
