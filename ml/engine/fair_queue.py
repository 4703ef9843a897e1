"""A bounded queue that serves recordings in turn."""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """One item of each recording in turn, the oldest item of a recording first.

    A recording that joins goes before the one that has just been served, but only one each turn, or that one would
    starve. `put` blocks while its recording has `capacity` items waiting; other recordings are not held back.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity  # items that one recording may have waiting
        self._lines: OrderedDict[Hashable, deque[T]] = OrderedDict()  # by recording; the next to serve comes first
        self._just_served: Hashable | None = None  # the recording that a new one may overtake, where _can_overtake
        self._can_overtake = False
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._lines.values()))

    def snapshot(self) -> list[T]:
        """Items waiting now, recording by recording."""
        with self._changed:
            return [item for line in self._lines.values() for item in line]

    def waiting(self) -> dict[Hashable, int]:
        """How many items wait, of each recording that has any."""
        with self._changed:
            return {recording_id: len(line) for recording_id, line in self._lines.items()}

    def put(self, recording_id: Hashable, item: T) -> bool:
        """Wait for room in the recording's line and add `item`; return False if the queue was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._lines.get(recording_id, ())) < self._capacity)
            if self._closed:
                return False
            if recording_id not in self._lines:
                self._join(recording_id)
            self._lines[recording_id].append(item)
            self._changed.notify_all()
            return True

    def take(self, limit: int, wait: bool, only: AbstractSet[Hashable] | None = None) -> list[T]:
        """Up to `limit` items, of the recordings `only` if given. With `wait`, at least one unless it is closed."""
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._closed or self._lines)
            taken: list[T] = []
            while len(taken) < limit and (found := self._next(only)) is not None:
                taken.append(self._take_from(found[0]))
            if taken:
                self._changed.notify_all()
            return taken

    def discard(self, recording_id: Hashable, item: T) -> bool:
        """Remove `item`; return False if it was not waiting."""
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
        """Accept no more items, end all waiting, and return the items that were waiting."""
        with self._changed:
            self._closed = True
            left = [item for line in self._lines.values() for item in line]
            self._lines.clear()
            self._changed.notify_all()
            return left

    def _join(self, recording_id: Hashable) -> None:
        self._lines[recording_id] = deque()
        if self._can_overtake and self._just_served in self._lines:
            self._lines.move_to_end(self._just_served)
        self._can_overtake = False

    def _next(self, only: AbstractSet[Hashable] | None) -> tuple[Hashable] | None:
        """The recording to serve next, in a tuple, since None may name one."""
        return next(((each,) for each in self._lines if only is None or each in only), None)

    def _take_from(self, recording_id: Hashable) -> T:
        line = self._lines.pop(recording_id)
        item = line.popleft()
        self._can_overtake = bool(line)
        if line:
            self._lines[recording_id] = line  # to the end: all other recordings come first
            self._just_served = recording_id
        return item
