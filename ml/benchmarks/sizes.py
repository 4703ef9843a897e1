"""How much work each workload of the benchmark does."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The workloads' sizes; `Sizes()` is the full benchmark: ten minutes on two cores with the bundled model."""

    clip_s: float = 10.0  # seconds in a short recording
    clips: int = 32  # short recordings sent at once
    file_s: float = 600.0  # seconds in a file
    long_s: float = 3600.0  # seconds in a long file
    lengths_s: tuple[float, ...] = (60.0, 600.0, 3600.0, 10800.0)  # for the cost of an hour
    clients: tuple[int, ...] = (1, 4, 16, 64)  # each sends a clip, waits for its text and sends the next
    clips_per_series: int = 16  # at least, over all clients
    beside: int = 12  # clips sent, one by one, while a long file runs
    head_start_s: float = 2.0  # of that file
    calls: int = 40  # gRPC calls
    cluster_chunks: int = 160  # chunks of the recording that replicas share
    repeats: int = 3  # of the short workloads; strategies take turns
    floor_repeats: int = 5  # of each matrix product, before and after each run


QUICK = Sizes(
    clips=8, file_s=60.0, long_s=240.0, lengths_s=(60.0, 240.0), clients=(1, 4), clips_per_series=4, beside=3,
    calls=5, cluster_chunks=32, repeats=1, floor_repeats=3,
)  # fmt: skip
