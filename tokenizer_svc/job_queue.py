"""The order of jobs that wait for workers. Pure: no loop, no processes.

Jobs are of classes by size. Smaller ones go first, but only so many of them pass a larger one that
waits. With two or more workers large jobs leave one of them to the others. So a job hardly waits
for larger ones to end while there is a worker that may take it, or can be interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

J = TypeVar("J", bound=Hashable)

# Bytes from which a job is of the next class.
_CLASS_BYTES = (8 << 10, 64 << 10, 512 << 10)
# Arrivals that a job of each class lets pass.
_PASSING = (0, 16, 64, 256)
_LEAST_LARGE = 2


def size_class(size: int) -> int:
    """The class of a job of `size` bytes; 0 is small."""
    return sum(size >= least for least in _CLASS_BYTES)


class JobQueue(Generic[J]):
    """Jobs that wait for one of `workers` workers."""

    def __init__(self, workers: int) -> None:
        self._for_others = 1 if workers > 1 else 0
        self._waiting: list[deque[tuple[int, J]]] = [deque() for _ in _PASSING]
        self._arrivals = 0
        self._running_large: set[J] = set()

    def __len__(self) -> int:
        return sum(map(len, self._waiting))

    def put(self, job: J, of_class: int) -> None:
        """Add a job at the end of its class."""
        self._arrivals += 1
        self._waiting[of_class].append((self._arrivals + _PASSING[of_class], job))

    def put_back(self, job: J, of_class: int) -> None:
        """Put a job back that could not be done; it is next of its class."""
        self.finish(job)
        self._waiting[of_class].appendleft((0, job))

    def discard(self, job: J) -> bool:
        """Remove a job; True if it still waited."""
        for queue in self._waiting:
            for entry in queue:
                if entry[1] == job:
                    queue.remove(entry)
                    return True
        return False

    def pop(self, alive: int) -> J | None:
        """Next job for a free worker; None if none may start now.

        Args:
            alive: workers that there are now, busy ones too.
        """
        room = len(self._running_large) < alive - self._for_others
        of_class = self._next_class(len(_PASSING) if room else _LEAST_LARGE)
        if of_class is None:
            return None
        _, job = self._waiting[of_class].popleft()
        if of_class >= _LEAST_LARGE:
            self._running_large.add(job)
        return job

    def has_smaller(self, of_class: int) -> bool:
        """True if a job of a class below `of_class` waits."""
        return any(self._waiting[:of_class])

    def take_smaller(self, of_class: int) -> J | None:
        """Job of a lower class for a worker that paused one of `of_class`, or None."""
        smaller = self._next_class(of_class)
        return None if smaller is None else self._waiting[smaller].popleft()[1]

    def _next_class(self, below: int) -> int | None:
        """The class below `below` that goes first."""
        heads = [of_class for of_class in range(below) if self._waiting[of_class]]
        return min(heads, key=lambda of_class: self._waiting[of_class][0][0], default=None)

    def finish(self, job: J) -> None:
        """Note that a job taken no longer runs."""
        self._running_large.discard(job)
