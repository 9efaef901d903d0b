"""Holders of the slots of the KV cache. Pure: no tensors, no clock.

A slot holds one token's K and V in every layer. Slots are handed out one by one from a LIFO stack,
so the ones in use stay few and warm, in an order without a pattern; a slot shared by several
sequences is free when the last of them gives it back. Every slot is either on the stack or counted
at least once, never both.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int32]

_WINDOW = 32
"""Slots whose order is without a pattern; those of one prompt still lie near each other."""


class PoolExhausted(Exception):
    """Fewer slots are free than were asked for."""


class IdleSlots(Protocol):
    """Owner of slots that no sequence needs, and whose K and V may be of use again."""

    @property
    def evictable(self) -> int:
        """Slots that it can give up."""

    def evict(self, count: int) -> Slots:
        """Give up `count` slots, [count]; the pool counts one holder less for each."""


class NoIdleSlots:
    """Owner of none: a slot that nobody holds is free at once."""

    evictable = 0

    def evict(self, count: int) -> Slots:
        """Give up nothing."""
        assert count == 0
        return np.empty(0, np.int32)


class SlotPool:
    """Slots 0 to `slots` - 1."""

    def __init__(self, slots: int, idle: IdleSlots | None = None) -> None:
        """Begin with all slots free; `idle` owns those kept for later, None: nobody does."""
        self.slots = slots
        self._idle = idle or NoIdleSlots()
        self._stack = _scattered(slots)[::-1].copy()
        self._free = slots
        self._holders: Slots = np.zeros(slots, dtype=np.int32)

    @property
    def free_slots(self) -> int:
        """Slots that nobody holds."""
        return self._free

    @property
    def evictable_slots(self) -> int:
        """Slots that the owner of idle slots can give up."""
        return self._idle.evictable

    @property
    def available_slots(self) -> int:
        """Slots that can be taken: free ones, and evictable ones."""
        return self._free + self._idle.evictable

    @property
    def used_slots(self) -> int:
        """Slots that sequences hold; a shared one counts once."""
        return self.slots - self.available_slots

    def take(self, count: int) -> Slots:
        """Hand out `count` slots, [count].

        Raises:
            PoolExhausted: fewer are available.
        """
        if count > self._free:
            if count > self.available_slots:
                raise PoolExhausted(f"{count} KV slots wanted, {self.available_slots} free")
            self.give_back(self._idle.evict(count - self._free))
        self._free -= count
        taken = self._stack[self._free : self._free + count][::-1].copy()
        self._holders[taken] = 1
        return taken

    def share(self, slots: Slots) -> None:
        """Count one more holder for each of `slots`, which must be held and distinct."""
        self._holders[slots] += 1

    def give_back(self, slots: Slots) -> None:
        """Count one holder less for each of `slots`, which must be held and distinct."""
        self._holders[slots] -= 1
        freed = slots[self._holders[slots] == 0]
        self._stack[self._free : self._free + len(freed)] = freed[::-1]
        self._free += len(freed)


def _scattered(slots: int) -> Slots:
    """Slots 0 to `slots` - 1, those of each window in an order without a pattern.

    Sequences that take turns would otherwise each have slots a fixed distance apart. Rows at a
    distance of some power of two share few places of a processor's caches, and push each other out.
    """
    windows = np.arange(slots + -slots % _WINDOW, dtype=np.int32).reshape(-1, _WINDOW)
    order = np.random.default_rng(0).permuted(windows, axis=1).ravel()
    return order[order < slots]
