"""How many processors this process may use, and what they can compute with."""

import math
import os
from pathlib import Path

import torch

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Processors that this process may run on: its affinity and its cgroup's CPU quota, rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    count = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota(cgroups, membership)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cpu_quota(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Processors that the cgroup (version 1 or 2) allows, the smallest quota on the way to the root; None for no limit.

    In a container the membership names a path of the host; the container's own group is then the root of `cgroups`.
    """
    quotas = []
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups if not controllers else cgroups / "cpu"
        folder = root / path.lstrip("/")
        while True:
            quotas.append(_quota_of(folder))
            if folder == root:
                break
            folder = folder.parent
    return min((quota for quota in quotas if quota is not None), default=None)


def computes_natively(dtype: torch.dtype) -> bool:
    """Whether this processor computes with `dtype`; other formats are emulated, ten times slower than float32."""
    if dtype == torch.bfloat16:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    if dtype == torch.float16:
        return bool(torch.cpu._is_amx_fp16_supported() or torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def _quota_of(folder: Path) -> float | None:
    """Quota of one group in processors; `max` and -1 are no limit."""
    limit, _, period = _read(folder / "cpu.max").strip().partition(" ")  # version 2: "150000 100000"
    if not limit:
        limit, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return quota if quota > 0 else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
