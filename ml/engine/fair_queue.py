"""A bounded line of work in which every recording has its turn."""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Takes in turn from every owner that waits, the oldest item of each first.

    A newcomer goes before the owner that has just had its turn, but only one each turn, or that owner would starve.
    An owner that has `capacity` items waiting is held back when it puts another; the others are not.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity  # items an owner may have waiting
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()  # the owner whose turn it is comes first
        self._just_served: set[Hashable] = set()  # the owner that a newcomer may overtake, if any
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def snapshot(self) -> list[T]:
        """Those who wait at this moment, owner by owner."""
        with self._changed:
            return [item for line in self._lines.values() for item in line]

    def owners(self) -> set[Hashable]:
        """Those who have something waiting."""
        with self._changed:
            return set(self._lines)

    def put(self, owner: Hashable, item: T) -> bool:
        """Waits for room in the owner's line and adds `item`; False if the queue was closed before there was any."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._lines.get(owner, ())) < self._capacity)
            if self._closed:
                return False
            if owner not in self._lines:
                self._join(owner)
            self._lines[owner].append(item)
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

    def _join(self, owner: Hashable) -> None:
        self._lines[owner] = deque()
        for overtaken in self._just_served & self._lines.keys():
            self._lines.move_to_end(overtaken)
        self._just_served.clear()

    def _take_one(self) -> T:
        owner, line = self._lines.popitem(last=False)
        item = line.popleft()
        self._just_served.clear()
        if line:
            self._lines[owner] = line  # to the end: everybody else comes first
            self._just_served.add(owner)
        return item

    def discard(self, owner: Hashable, item: T) -> bool:
        """Removes `item`; False if it was no longer waiting."""
        with self._changed:
            line = self._lines.get(owner, deque())
            if item not in line:
                return False
            line.remove(item)
            if not line:
                del self._lines[owner]
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
