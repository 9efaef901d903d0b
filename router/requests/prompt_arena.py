"""The prompt arena: shared memory in which a prompt's ids stay for as long as its request.

A slab is lent again only when its request has ended and no writer can reach it. After the death of
a writer its last writes are unknown: the whole file is retired, and goes when its last slab has
come back.
"""

from __future__ import annotations

import array
import logging
from collections.abc import Callable, Sequence

from chassis.memory.arena import Arena
from chassis.memory.shared_file import SharedFile
from protos import memory_pb2

log = logging.getLogger(__name__)

ID_BYTES = 4


class Slab:
    """A slab on loan, given back when its last holder releases it."""

    def __init__(
        self, span: memory_pb2.Span, arena: Arena, settle: Callable[[Arena], None]
    ) -> None:
        self.span = span
        self._arena = arena
        self._settle = settle
        self._holders = 1

    def hold(self) -> None:
        """Count one holder more."""
        self._holders += 1

    def release(self) -> None:
        """Count one holder less."""
        self._holders -= 1
        if self._holders == 0:
            self._arena.give_back(self.span)
            self._settle(self._arena)

    def view(self, ids: int) -> memoryview:
        """The bytes of the first `ids` ids."""
        start = self.span.offset
        return self._arena.file.view[start : start + ids * ID_BYTES]


class PromptArena:
    """Lends slabs of the current arena file; without one it lends none."""

    def __init__(self, payload_bytes: int) -> None:
        """Make the first file, of `payload_bytes`; 0: never share.

        Raises:
            StartError: there is too little shared memory.
        """
        self._payload_bytes = payload_bytes
        self._retired: list[Arena] = []
        self._current: Arena | None = None
        if payload_bytes:
            self.renew()

    @property
    def held_slabs(self) -> int:
        """Slabs on loan, of all files."""
        arenas = [*self._retired, *([self._current] if self._current else [])]
        return sum(arena.held_slabs for arena in arenas)

    @property
    def file(self) -> SharedFile | None:
        """The current file."""
        return self._current.file if self._current else None

    def describe(self) -> memory_pb2.SharedFile:
        """The file that a peer is asked to prove; empty where nothing is shared."""
        return self._current.file.describe() if self._current else memory_pb2.SharedFile()

    def proven_by(self, name: str, proof: memory_pb2.SharedProof) -> bool:
        """Tell whether `proof` shows that a peer sees the file `name`, the current one."""
        file = self.file
        return file is not None and file.name == name and file.proven_by(proof)

    def lend(self, ids: int) -> Slab | None:
        """Lend a slab for `ids` ids, or None where there is no room."""
        span = self._current.take(ids * ID_BYTES) if self._current else None
        if span is None or self._current is None:
            return None
        return Slab(span, self._current, self._settle)

    def store(self, ids: bytes) -> Slab | None:
        """Lend a slab that holds `ids`, or None where there is no room."""
        slab = self.lend(len(ids) // ID_BYTES)
        if slab is not None:
            slab.view(len(ids) // ID_BYTES)[:] = ids
        return slab

    def retire(self, name: str) -> bool:
        """Lend no more of the file `name`; return whether it was the current one."""
        current = self._current
        if current is None or current.file.name != name:
            return False
        self._current = None
        self._retired.append(current)
        self._settle(current)
        return True

    def renew(self) -> None:
        """Begin a new file.

        Raises:
            StartError: there is too little shared memory.
        """
        self._current = Arena(SharedFile.create("arena", self._payload_bytes))

    def close(self) -> None:
        """Remove all files."""
        for arena in self._retired:
            arena.file.close()
        self._retired.clear()
        if self._current is not None:
            self._current.file.close()
            self._current = None

    def _settle(self, arena: Arena) -> None:
        """Close a retired file whose last slab has come back."""
        if arena in self._retired and arena.held_slabs == 0:
            self._retired.remove(arena)
            arena.file.close()


class Prompt:
    """The ids of a prompt, in a slab or here, until the request ends.

    Attributes:
        count: number of ids.
        text: their text, where it is to be echoed.
        bad_words: sequences of ids that its output may not have.
    """

    def __init__(
        self,
        count: int,
        slab: Slab | None,
        ids: bytes = b"",
        *,
        text: str = "",
        bad_words: Sequence[Sequence[int]] = (),
    ) -> None:
        """Hold `count` ids, which are int32 in `slab`, or in `ids` where there is none."""
        self.count = count
        self.text = text
        self.bad_words = tuple(bad_words)
        self._slab = slab
        self._ids = ids

    @property
    def span(self) -> memory_pb2.Span | None:
        """Place of the ids in shared memory; None: they are not there."""
        if self._slab is None:
            return None
        slab = self._slab.span
        return memory_pb2.Span(name=slab.name, offset=slab.offset, length=self.count * ID_BYTES)

    def to_bytes(self) -> bytes:
        """The ids as int32, little-endian."""
        return self._ids if self._slab is None else bytes(self._slab.view(self.count))

    def ids(self) -> array.array[int]:
        """The ids."""
        return array.array("i", self.to_bytes())

    def tail(self, count: int) -> array.array[int]:
        """The last `count` ids, or all where there are fewer."""
        start = max(0, self.count - count) * ID_BYTES
        if self._slab is None:
            return array.array("i", self._ids[start:])
        return array.array("i", bytes(self._slab.view(self.count)[start:]))

    def close(self) -> None:
        """Release the slab."""
        if self._slab is not None:
            self._slab.release()
            self._slab = None
            self._ids = b""
