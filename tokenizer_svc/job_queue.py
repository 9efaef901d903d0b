"""Which job a free worker takes next. Pure: no loop, no processes.

Jobs run in order of arrival, except that with two or more workers long jobs leave one of them to
short jobs. So a short job never waits for a long one to end while there is a worker for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

J = TypeVar("J", bound=Hashable)


class JobQueue(Generic[J]):
    """Jobs that wait for one of `workers` workers."""

    def __init__(self, workers: int) -> None:
        self._long_places = max(1, workers - 1)
        self._long: deque[tuple[int, J]] = deque()
        self._short: deque[tuple[int, J]] = deque()
        self._arrivals = 0
        self._running_long: set[J] = set()

    def __len__(self) -> int:
        return len(self._long) + len(self._short)

    def put(self, job: J, *, long: bool) -> None:
        """Add a job at the end."""
        self._arrivals += 1
        (self._long if long else self._short).append((self._arrivals, job))

    def put_back(self, job: J, *, long: bool) -> None:
        """Add a job that was taken and could not be done; it is next."""
        self.finish(job)
        (self._long if long else self._short).appendleft((0, job))

    def discard(self, job: J) -> bool:
        """Take a job out; tell whether it still waited."""
        for queue in (self._long, self._short):
            for entry in queue:
                if entry[1] == job:
                    queue.remove(entry)
                    return True
        return False

    def take(self) -> J | None:
        """Give a free worker its next job, or None where none may start now."""
        heads = [self._short] if self._short else []
        if self._long and len(self._running_long) < self._long_places:
            heads.append(self._long)
        if not heads:
            return None
        queue = min(heads, key=lambda queue: queue[0][0])
        _, job = queue.popleft()
        if queue is self._long:
            self._running_long.add(job)
        return job

    def finish(self, job: J) -> None:
        """Tell that a job taken no longer runs."""
        self._running_long.discard(job)
