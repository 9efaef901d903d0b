"""A part of the sweeps that are repeated at every level of instructions.

Invariant: a test keeps every value of each of its parameters at every level at which it runs.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Protocol

LEVEL_FIXTURES = ("operations", "native_operations", "native_library")
"""Fixtures that have a level as their parameter."""


class CallSpec(Protocol):
    """The parameters that pytest gives a test."""

    params: dict[str, object]


class Item(Protocol):
    """A test as pytest has collected it."""

    nodeid: str
    callspec: CallSpec


def part_of_sweeps(items: Sequence[Item], seed: int) -> set[str]:
    """Choose tests at random, until every value of each parameter is among them.

    Args:
        items: all that were collected; those without a level are chosen all.
        seed: the same makes the same choice.

    Returns:
        The ids of those chosen.
    """
    chosen: set[str] = set()
    sweeps: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        level = _level_of(item)
        if level is None:
            chosen.add(item.nodeid)
        else:
            sweeps[item.nodeid.partition("[")[0], level].append(item)
    for name, sweep in sweeps.items():
        shuffled = sorted(sweep, key=lambda item: item.nodeid)
        random.Random(f"{seed} {name}").shuffle(shuffled)
        seen: set[tuple[str, str]] = set()
        for item in shuffled:
            values = {(name, repr(value)) for name, value in item.callspec.params.items()}
            if not values <= seen:
                chosen.add(item.nodeid)
                seen |= values
    return chosen


def _level_of(item: Item) -> object:
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return None
    return next((callspec.params[name] for name in LEVEL_FIXTURES if name in callspec.params), None)
