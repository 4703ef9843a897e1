"""Pieces of work side by side on a CPU, each on a worker with its share of torch's threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class CpuWorkers:
    """Workers that share torch's threads: they have no barriers in common, as threads of one operation do.

    Holds as many idle threads as torch had when it was made. For one caller at a time: the number of threads that MKL
    uses is the whole process's.
    """

    def __init__(self) -> None:
        # Kept from call to call: what MKL, oneDNN and the heap hold for a thread is lost with it.
        self._pool = ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="model-worker")

    def map(self, work: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """What `work` returns for each of `items`; a single one is done here, by all of torch's threads."""
        if len(items) == 1:
            return [_infer(work, items[0])]
        threads = torch.get_num_threads()
        each, left_over = divmod(threads, len(items))
        shares = [max(1, each + (number < left_over)) for number in range(len(items))]

        def by_its_share(item: T, share: int) -> R:
            torch.set_num_threads(share)
            return _infer(work, item)

        try:
            futures = [self._pool.submit(by_its_share, *each) for each in zip(items, shares, strict=True)]
            wait(futures)  # where one fails, the others must not go on beside the next attempt
            return [future.result() for future in futures]
        finally:
            torch.set_num_threads(threads)


@torch.inference_mode()
def _infer(work: Callable[[T], R], item: T) -> R:
    return work(item)
