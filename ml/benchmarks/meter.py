"""What a measurement took of the machine, and on what machine it was."""

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ml.heap import release_free_memory

_PROC = Path("/proc")  # absent outside Linux: what is read there is then 0


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """The machine and the libraries, as far as they matter to speed."""
    models = [line for line in _lines("cpuinfo") if line.startswith("model name")]
    return {
        "processor": models[0].split(":", 1)[1].strip() if models else platform.processor(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }


@dataclass(frozen=True)
class Usage:
    """What one measurement took; 0 for what is not measured."""

    elapsed_s: float
    cpu_s: float = 0.0  # of this process and its ended children
    others: float = 0.0  # share of the machine's processor time that other processes took
    peak_bytes: int = 0  # resident at most, on CUDA allocated there at most


class Meter:
    """Measures from its construction to `read`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        release_free_memory()
        with suppress(OSError):  # not Linux
            (_PROC / "self" / "clear_refs").write_text("5")  # proc(5): resets VmHWM
        self._busy_s, self._cpu_s, self._started_s = _busy_s(), _cpu_s(), time.perf_counter()

    def read(self) -> Usage:
        """What has been taken so far."""
        elapsed_s = time.perf_counter() - self._started_s
        cpu_s = _cpu_s() - self._cpu_s
        others = (_busy_s() - self._busy_s - cpu_s) / (elapsed_s * (os.cpu_count() or 1))
        on_cuda = self._device.type == "cuda"
        peak_bytes = torch.cuda.max_memory_allocated(self._device) if on_cuda else _peak_resident_bytes()
        return Usage(elapsed_s, cpu_s, max(0.0, others), peak_bytes)


def _cpu_s() -> float:
    return time.process_time() + sum(os.times()[2:4])  # ended children in ticks of 10 ms


def _peak_resident_bytes() -> int:
    return sum(int(line.split()[1]) * 1024 for line in _lines("self/status") if line.startswith("VmHWM:"))


def _busy_s() -> float:
    """Processor seconds of all processes since the machine started: user, nice, system and interrupts."""
    fields = next(iter(_lines("stat")), "cpu").split()[1:8]
    return sum(int(ticks) for place, ticks in enumerate(fields) if place not in (3, 4)) / 100  # ticks of 10 ms


def _lines(name: str) -> list[str]:
    try:
        return (_PROC / name).read_text().splitlines()
    except OSError:
        return []
