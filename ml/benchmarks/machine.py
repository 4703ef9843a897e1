"""What the machine is, what a measurement took of it and what others did meanwhile."""

import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

_PROC = Path("/proc/self")


def describe(device: torch.device) -> dict[str, str | int]:
    """The machine and the libraries, as far as they matter to speed."""
    return {
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": str(transformers.__version__),
    }


@dataclass(frozen=True)
class Usage:
    """What one measurement took.

    elapsed_s: by the wall clock; cpu_s: processor time of this process and its ended children; others: share of the
    machine's processor time that other processes took, None where it is not known; peak_bytes: most memory resident
    at once; device_peak_bytes: most memory allocated on the device at once, 0 on a CPU
    """

    elapsed_s: float
    cpu_s: float
    others: float | None
    peak_bytes: int
    device_peak_bytes: int


class Meter:
    """Measures from its construction to `read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        _reset_peaks(device)
        self._busy_s = _busy_s()
        self._cpu_s = _cpu_s()
        self._started_s = time.perf_counter()

    def read(self) -> Usage:
        """What has been taken so far."""
        elapsed_s = time.perf_counter() - self._started_s
        cpu_s = _cpu_s() - self._cpu_s
        busy_s, others = _busy_s(), None
        if busy_s is not None and self._busy_s is not None:
            others = max(0.0, (busy_s - self._busy_s - cpu_s) / (elapsed_s * (os.cpu_count() or 1)))
        on_device = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else 0
        return Usage(elapsed_s, cpu_s, others, _peak_bytes(), on_device)


def _reset_peaks(device: torch.device) -> None:
    """Gives freed memory back to the system and forgets the peaks so far, where the platform can do it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            (_PROC / "clear_refs").write_text("5")  # proc(5): resets VmHWM
        except (OSError, AttributeError):
            pass  # another C library, or not ours to write


def _peak_bytes() -> int:
    """VmHWM on Linux, 0 elsewhere."""
    try:
        lines = (_PROC / "status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _cpu_s() -> float:
    return sum(os.times()[:4])


def _busy_s() -> float | None:
    """Processor seconds of all processes since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
