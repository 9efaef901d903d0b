"""Prompts of any exact length, cut from a text that every Python carries.

Two prompts of one run begin at different places, so that none is a prefix of another by design.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

_STRIDE = 7919  # prime, so that starts visit every place before one comes again


def text() -> str:
    """The text that prompts are cut from: a module of the standard library."""
    return inspect.getsource(argparse)


class Prompts:
    """Token ids cut from one long sequence, which is begun again at its end."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = tuple(ids)

    def cut(self, number: int, length: int) -> list[int]:
        """The ids of prompt `number`, exactly `length` of them."""
        start = number * _STRIDE % len(self._ids)
        taken = list(self._ids[start : start + length])
        while len(taken) < length:
            taken += self._ids[: length - len(taken)]
        return taken
