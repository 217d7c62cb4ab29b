"""Indices of the data plane that nobody has."""

from __future__ import annotations

from array import array
from collections.abc import Iterator


class FreeIndices:
    """A queue, longest free first: what an index's last holder left behind has been swept when it is taken again."""

    def __init__(self, used: bytearray) -> None:
        """`used` says of every index there is whether somebody has it: not zero."""
        capacity, start = len(used), len(used.rstrip(b"\0"))
        self._queue = array("I", (n for n in (*range(start, capacity), *range(start)) if not used[n]))
        self._first = 0

    def take(self) -> int:
        """Take the one that has been free longest. Raises IndexError when there is none."""
        index: int = self._queue[self._first]
        self._first += 1
        return index

    def give(self, index: int) -> None:
        """Put one back that has become free."""
        if self._first > len(self._queue) // 2:
            del self._queue[: self._first]
            self._first = 0
        self._queue.append(index)

    def __iter__(self) -> Iterator[int]:
        return iter(self._queue[self._first :])

    def __len__(self) -> int:
        return len(self._queue) - self._first
