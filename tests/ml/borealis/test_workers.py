"""Workers that share torch's threads."""

import gc
import threading
from collections.abc import Iterator

import pytest
import torch

from ml.borealis.workers import CpuWorkers
from tests.support.waiting import HANG_LIMIT_S


def worker_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("model-worker")}


@pytest.fixture
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("items", "shares"), [(1, {4}), (2, {2}), (3, {1, 2}), (4, {1}), (9, {1})])
def test_results_are_in_order_and_the_threads_are_shared(four_threads: None, items: int, shares: set[int]) -> None:
    used = set()

    def work(item: int) -> int:
        used.add(torch.get_num_threads())
        assert torch.is_inference_mode_enabled()
        return item**2

    assert CpuWorkers().map(work, range(items)) == [item**2 for item in range(items)]
    assert used == shares
    assert torch.get_num_threads() == 4


def test_a_failure_is_raised_once_all_others_have_ended(four_threads: None) -> None:
    failed, ended = threading.Event(), threading.Event()

    def work(item: int) -> None:
        if item == 0:
            failed.set()
            raise ValueError
        assert failed.wait(HANG_LIMIT_S)
        ended.set()

    with pytest.raises(ValueError):
        CpuWorkers().map(work, [0, 1])
    assert ended.is_set()
    assert torch.get_num_threads() == 4


def test_the_same_threads_do_all_work_and_go_with_the_workers(four_threads: None) -> None:
    others, workers = worker_threads(), CpuWorkers()
    workers.map(abs, range(4))
    own = worker_threads() - others
    workers.map(abs, range(4))
    assert 1 <= len(own) <= 4
    assert own <= worker_threads()
    del workers
    gc.collect()
    for thread in own:
        thread.join(HANG_LIMIT_S)
    assert not worker_threads() & own
