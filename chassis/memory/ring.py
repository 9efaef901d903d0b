"""A ring of records in shared memory: one writer, one reader that acknowledges.

Only acknowledged records are overwritten; a record never wraps, so the end of the file may stay
unused for a round. The writer never waits: without room it is refused.
"""

from __future__ import annotations

from collections import deque

from chassis.memory.shared_file import HEADER_BYTES, SharedFile
from protos import memory_pb2

_ALIGN = 8


class Ring:
    """The writer's side of a ring in `file`."""

    def __init__(self, file: SharedFile) -> None:
        self.file = file
        self._start = HEADER_BYTES
        self._end = len(file.view) // _ALIGN * _ALIGN
        self._head = self._start
        self._live: deque[tuple[int, int]] = deque()  # (sequence, offset), oldest first

    @property
    def live_records(self) -> int:
        """Records not yet acknowledged."""
        return len(self._live)

    def reserve(self, sequence: int, size: int) -> memory_pb2.Span | None:
        """Make room for a record of `size` bytes, or answer None where there is none.

        `sequence` must be higher than that of the record before.
        """
        room = max(_ALIGN, -(-size // _ALIGN) * _ALIGN)
        offset = self._fit(room)
        if offset is None:
            return None
        self._head = offset + room
        self._live.append((sequence, offset))
        return memory_pb2.Span(name=self.file.name, offset=offset, length=size)

    def _fit(self, room: int) -> int | None:
        """A place for `room` bytes: before the oldest live record, or behind the newest."""
        if not self._live:
            return self._start if self._start + room <= self._end else None
        tail = self._live[0][1]
        if self._head <= tail:  # wrapped; full where they are equal
            return self._head if self._head + room <= tail else None
        if self._head + room <= self._end:
            return self._head
        return self._start if self._start + room <= tail else None

    def view(self, span: memory_pb2.Span) -> memoryview:
        """The bytes of a reserved record, to be written."""
        return self.file.view[span.offset : span.offset + span.length]

    def acknowledge(self, sequence: int) -> None:
        """Let the records up to and including `sequence` be overwritten."""
        while self._live and self._live[0][0] <= sequence:
            self._live.popleft()
