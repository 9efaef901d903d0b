"""Slabs of shared memory, handed out and taken back by the arena's one owner.

Slabs never overlap; freed neighbours are joined, so an arena whose slabs are all free is one slab.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager

from chassis.memory.shared_file import HEADER_BYTES, SharedFile
from protos import memory_pb2

_ALIGN = 64


class Arena:
    """First-fit slabs of one shared file."""

    def __init__(self, file: SharedFile) -> None:
        self.file = file
        self._free = [(HEADER_BYTES, len(file.view))]  # sorted (start, end)
        self._held: dict[int, int] = {}

    @property
    def held_slabs(self) -> int:
        """Slabs not yet given back."""
        return len(self._held)

    def take(self, payload_bytes: int) -> memory_pb2.Span | None:
        """Hand out a slab of at least `payload_bytes`, or None where no gap is that long."""
        for i, (start, end) in enumerate(self._free):
            if end - start >= payload_bytes and start < end:
                # A file need not end where a slab would.
                cut = min(end, start + max(_ALIGN, -(-payload_bytes // _ALIGN) * _ALIGN))
                self._free[i : i + 1] = [(cut, end)] if cut < end else []
                self._held[start] = cut
                return memory_pb2.Span(name=self.file.name, offset=start, length=payload_bytes)
        return None

    def give_back(self, slab: memory_pb2.Span) -> None:
        """Take a slab back.

        Raises:
            KeyError: it was not handed out here, or was given back before.
        """
        if slab.name != self.file.name:
            raise KeyError(f"{slab.name} is not {self.file.name}")
        start = slab.offset
        end = self._held.pop(start)
        i = bisect.bisect(self._free, (start, end))
        if i < len(self._free) and self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i > 0 and self._free[i - 1][1] == start:
            i -= 1
            start = self._free.pop(i)[0]
        self._free.insert(i, (start, end))

    @contextmanager
    def lend(self, payload_bytes: int) -> Iterator[memory_pb2.Span | None]:
        """Lend a slab for the block, or None where there is no room."""
        slab = self.take(payload_bytes)
        try:
            yield slab
        finally:
            if slab is not None:
                self.give_back(slab)
