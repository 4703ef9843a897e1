"""Recordings are served in turn: no item is lost, overtaken or kept waiting longer than a round."""

import threading
from collections import Counter, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.engine.fair_queue import FairQueue
from tests.support.fake_models import in_background
from tests.support.waiting import HANG_LIMIT_S

RECORDINGS = st.integers(0, 4)
ACTIONS = st.one_of(
    st.tuples(st.just("put"), RECORDINGS),
    st.tuples(st.just("put"), RECORDINGS),
    st.tuples(st.just("take"), st.integers(0, 5)),
    st.tuples(st.just("discard"), st.tuples(RECORDINGS, st.integers(0, 10))),
)
Item = tuple[int, int]  # recording_id, number


@settings(deadline=None, max_examples=300)
@given(st.lists(ACTIONS, max_size=60))
def test_no_item_is_lost_or_overtaken_or_waits_longer_than_a_round(actions: list) -> None:
    queue: FairQueue[Item] = FairQueue(capacity=100)
    lines: dict[int, deque[Item]] = {recording_id: deque() for recording_id in range(5)}
    # For each recording, how often the others were served since it began to wait for its turn.
    passed: dict[int, Counter[int]] = {recording_id: Counter() for recording_id in range(5)}
    for number, (action, value) in enumerate(actions):
        if action == "put":
            if not lines[value]:
                passed[value].clear()
            assert queue.put(value, (value, number))
            lines[value].append((value, number))
        elif action == "discard":
            recording_id, index = value
            item = lines[recording_id][index] if index < len(lines[recording_id]) else (recording_id, -1)
            assert queue.discard(recording_id, item) == (item in lines[recording_id])
            if item in lines[recording_id]:
                lines[recording_id].remove(item)
        else:
            taken = queue.take(value, wait=False)
            assert len(taken) == min(value, sum(map(len, lines.values())))
            for item in taken:
                assert item == lines[item[0]].popleft()
                passed[item[0]].clear()
                for recording_id in range(5):
                    if lines[recording_id] and recording_id != item[0]:
                        passed[recording_id][item[0]] += 1
                        assert passed[recording_id][item[0]] == 1
        assert len(queue) == sum(map(len, lines.values()))
    assert Counter(queue.close()) == Counter(item for line in lines.values() for item in line)


def test_recordings_are_served_one_after_the_other() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.put(item[0], item)
    assert queue.take(4, wait=True) == ["a1", "b1", "c1", "a2"]
    queue.put("c", "c2")
    assert queue.take(10, wait=True) == ["b2", "c2", "a3"]
    assert queue.take(10, wait=False) == []


def test_a_full_line_holds_back_its_recording_alone() -> None:
    queue: FairQueue[int] = FairQueue(1)
    queue.put("a", 1)
    blocked = in_background(lambda: queue.put("a", 2))
    assert in_background(lambda: queue.put("b", 3)).result(HANG_LIMIT_S)
    assert not blocked.done()
    assert queue.take(1, wait=False) == [1]
    assert blocked.result(HANG_LIMIT_S)
    assert queue.take(5, wait=False) == [3, 2]


def test_a_held_back_item_joins_when_another_of_its_recording_is_discarded() -> None:
    queue: FairQueue[int] = FairQueue(1)
    queue.put("a", 1)
    blocked = in_background(lambda: queue.put("a", 2))
    assert queue.discard("a", 1)
    assert blocked.result(HANG_LIMIT_S)
    assert not queue.discard("a", 1)
    assert not queue.discard("unknown", 2)


def test_taking_waits_for_an_item() -> None:
    queue: FairQueue[int] = FairQueue(1)
    taking = in_background(lambda: queue.take(3, wait=True))
    assert not taking.done()
    queue.put("a", 1)
    assert taking.result(HANG_LIMIT_S) == [1]


def test_closing_ends_all_waiting_and_returns_what_is_left() -> None:
    queue: FairQueue[int] = FairQueue(2)
    queue.put("a", 1)
    queue.put("a", 2)
    queue.put("b", 3)
    blocked = in_background(lambda: queue.put("a", 4))
    assert queue.close() == [1, 2, 3]
    assert blocked.result(HANG_LIMIT_S) is False
    assert queue.put("c", 5) is False
    assert queue.take(1, wait=True) == []
    assert queue.close() == []


def test_closing_ends_a_taking_that_waits() -> None:
    queue: FairQueue[int] = FairQueue(2)
    taking = in_background(lambda: queue.take(1, wait=True))
    queue.close()
    assert taking.result(HANG_LIMIT_S) == []


@pytest.mark.parametrize("capacity", [1, 3])
def test_nothing_is_lost_between_threads(capacity: int) -> None:
    queue: FairQueue[Item] = FairQueue(capacity)
    taken: list[Item] = []

    def put_all(recording_id: int) -> None:
        for number in range(200):
            queue.put(recording_id, (recording_id, number))

    def take_all() -> None:
        while items := queue.take(2, wait=True):
            taken.extend(items)

    taker = threading.Thread(target=take_all)
    taker.start()
    putters = [in_background(lambda recording_id=recording_id: put_all(recording_id)) for recording_id in range(4)]
    for putter in putters:
        putter.result(HANG_LIMIT_S)
    left = queue.close()
    taker.join(HANG_LIMIT_S)
    for recording_id in range(4):
        assert [number for taken_id, number in taken + left if taken_id == recording_id] == list(range(200))


def test_a_new_recording_goes_before_the_one_just_served() -> None:
    queue: FairQueue[str] = FairQueue(capacity=9)
    for item in ("a1", "a2", "a3"):
        queue.put("a", item)
    assert queue.take(1, wait=False) == ["a1"]
    queue.put("b", "b1")
    assert queue.take(2, wait=False) == ["b1", "a2"]


def test_new_recordings_without_end_do_not_starve_an_old_one() -> None:
    queue: FairQueue[str] = FairQueue(capacity=99)
    for number in range(20):
        queue.put("a file", f"file {number}")
    served = []
    for number in range(30):
        queue.put(f"clip {number}", f"clip {number}")
        queue.put(f"another clip {number}", f"another clip {number}")
        served += queue.take(1, wait=False)
    assert "file 0" in served and "file 1" in served
