"""A bounded line of work in which every recording has its turn."""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Takes in turn from every recording that waits, the oldest item of each first.

    A new recording goes before the one that has just had its turn, but only one each turn, or that one would starve.
    `put` blocks while its recording has `capacity` items waiting; other recordings are not held back.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity  # items an recording_id may have waiting
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()  # the recording_id whose turn it is comes first
        self._just_served: set[Hashable] = set()  # the recording_id that a newcomer may overtake, if any
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def snapshot(self) -> list[T]:
        """Those who wait at this moment, recording_id by recording_id."""
        with self._changed:
            return [item for line in self._lines.values() for item in line]

    def recording_ids(self) -> set[Hashable]:
        """Those who have something waiting."""
        with self._changed:
            return set(self._lines)

    def put(self, recording_id: Hashable, item: T) -> bool:
        """Wait for room in the recording's queue and add `item`; return False if the queue was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._lines.get(recording_id, ())) < self._capacity)
            if self._closed:
                return False
            if recording_id not in self._lines:
                self._join(recording_id)
            self._lines[recording_id].append(item)
            self._changed.notify_all()
            return True

    def take(self, limit: int, wait: bool) -> list[T]:
        """Up to `limit` items. With `wait`, at least one, or none once the queue is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._lines)
            taken: list[T] = []
            while self._lines and len(taken) < limit:
                taken.append(self._take_one())
            if taken:
                self._changed.notify_all()
            return taken

    def _join(self, recording_id: Hashable) -> None:
        self._lines[recording_id] = deque()
        for overtaken in self._just_served & self._lines.keys():
            self._lines.move_to_end(overtaken)
        self._just_served.clear()

    def _take_one(self) -> T:
        recording_id, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._just_served.clear()
        if line:
            self._lines[recording_id] = line  # to the end: everybody else comes first
            self._just_served.add(recording_id)
        return item

    def discard(self, recording_id: Hashable, item: T) -> bool:
        """Removes `item`; False if it was no longer waiting."""
        with self._changed:
            line = self._lines.get(recording_id, deque())
            if item not in line:
                return False
            line.remove(item)
            if not line:
                del self._lines[recording_id]
            self._changed.notify_all()
            return True

    def close(self) -> list[T]:
        """Lets nobody in any more and hands over those who were waiting."""
        with self._changed:
            self._closed = True
            left = [item for line in self._lines.values() for item in line]
            self._lines.clear()
            self._changed.notify_all()
            return left
