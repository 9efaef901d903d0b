"""Who holds which slot of the KV cache. Pure: no tensors, no clock.

A slot holds one token's K and V in every layer. Slots are handed out one by one from a LIFO stack,
so the ones in use stay few and warm, in an order without a pattern; a slot shared by several
sequences is free when the last of them gives it back. Every slot is either on the stack or counted
at least once, never both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int32]

_WINDOW = 32
"""Slots whose order is without a pattern; those of one prompt still lie near each other."""


class PoolExhausted(Exception):
    """Fewer slots are free than were asked for."""


class SlotPool:
    """Slots 0 to `slots` - 1."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._stack = _scattered(slots)[::-1].copy()
        self._free = slots
        self._holders: Slots = np.zeros(slots, dtype=np.int32)

    @property
    def free_slots(self) -> int:
        """Slots that nobody holds."""
        return self._free

    @property
    def used_slots(self) -> int:
        """Slots that somebody holds; a shared one counts once."""
        return self.slots - self._free

    def take(self, count: int) -> Slots:
        """Hand out `count` slots, [count].

        Raises:
            PoolExhausted: fewer are free.
        """
        if count > self._free:
            raise PoolExhausted(f"{count} KV slots wanted, {self._free} free")
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
