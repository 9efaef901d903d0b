"""Routing arguments of the experts' C functions, and memory for one call of theirs.

Invariant: the fields are those of source/routing.h, and every array begins at a multiple of LINE.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch

from kernels.c.calls import Calls
from kernels.ops import Routing

LINE = 64
"""Bytes of a line of the cache."""


class Scratch(NamedTuple):
    """Memory for one call."""

    memory: torch.Tensor
    """To be kept until the call is made or recorded."""
    routing: tuple[int, ...]
    """The fields of the structure."""
    others: tuple[int, ...]
    """Addresses of the function's other arrays."""


def scratch_for(
    calls: Calls, tokens: int, experts: int, routing: Routing, others: Sequence[int]
) -> Scratch:
    """Set memory aside.

    Args:
        calls: to which it belongs.
        tokens: of the step.
        experts: of the layer.
        routing: how tokens choose among them.
        others: bytes of each array that the function needs besides.
    """
    pairs = tokens * routing.top_k
    arrays = (4 * pairs, 8 * pairs, 8 * (experts + 1), 8 * experts, 8 * pairs, 8 * pairs, 4 * pairs)
    sizes = [-(-size // LINE) * LINE for size in (*arrays, *others)]
    memory = calls.empty((sum(sizes),), torch.uint8)
    places = tuple(accumulate(sizes[:-1], initial=memory.data_ptr()))
    fields = (tokens, experts, routing.top_k, int(routing.renormalise))
    return Scratch(memory, (*fields, *places[: len(arrays)]), places[len(arrays) :])
