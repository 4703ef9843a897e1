"""A bounded line of work: many threads put, one takes whatever waits."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """First in, first out; holds back those who put once `capacity` items wait."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: T) -> bool:
        """Wait for room and add `item`; False if the room was closed before there was any."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def take(self, limit: int, wait: bool) -> list[T]:
        """Up to `limit` of the oldest items. With `wait`, at least one, or none once the room is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._items)
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._changed.notify_all()
            return taken

    def discard(self, item: T) -> bool:
        """Remove `item`; False if it was no longer waiting."""
        with self._changed:
            if item not in self._items:
                return False
            self._items.remove(item)
            self._changed.notify_all()
            return True

    def close(self) -> list[T]:
        """Let nobody in any more and hand over those who were waiting."""
        with self._changed:
            self._closed = True
            left = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return left
