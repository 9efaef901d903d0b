"""Rows looked up by number: embeddings, and the angles that turn heads.

Invariant: the angles of a step are looked up as they are used, never copied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from kernels.triton.rows import rope as rotary


class Angles(NamedTuple):
    """Rows of a table that turn a step's heads."""

    table: torch.Tensor
    """[context, rotary_dim] float32."""
    positions: torch.Tensor
    """[tokens] int64."""


def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """See `Operations.embedding`."""
    return table.index_select(0, token_ids)


def rope_angles(table: torch.Tensor, positions: torch.Tensor) -> Angles:
    """See `Operations.rope_angles`."""
    return Angles(table, positions)


def rope(heads: torch.Tensor, angles: Angles) -> None:
    """See `Operations.rope`."""
    rotary.rope(heads, None, angles.table, angles.positions)
