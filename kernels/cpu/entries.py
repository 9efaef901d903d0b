"""Entries of the operations in plain PyTorch on a CPU.

Invariant: they are complete for their dtype: what they stand behind in a table is never missed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from kernels import uncaptured
from kernels.cpu import attention, exact, experts, linear, rows
from kernels.cpu.experts import Arithmetic, PackedExperts
from kernels.cpu.quantised import RoundedLinear
from kernels.formats import Dense, Int4Group, Int8
from kernels.layers import Linear
from kernels.ops import Routing
from kernels.table import Table


def add_entries(table: Table, dtype: torch.dtype) -> None:
    """Add the entries for `dtype`; in float32 they are exact, see `kernels.cpu.exact`."""
    own = exact if dtype == torch.float32 else linear
    if dtype == torch.float32:
        table.add(exact)
    table.add(rows)
    table.add(attention)
    table.add(uncaptured)
    table.add_layer("pack_linear", own.pack_linear, Dense)
    pack_experts = exact.pack_experts if dtype == torch.float32 else experts.pack_experts
    table.add_layer("pack_experts", pack_experts, Dense)
    for format in (Int8, Int4Group):
        rounded = partial(RoundedLinear, pack_dense=own.pack_linear)
        table.add_layer("pack_linear", rounded, format)
        table.add_layer("pack_experts", partial(pack_each, rounded, dtype), format)


def pack_each(
    pack_linear: Callable[..., Linear],
    dtype: torch.dtype,
    router: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    routing: Routing,
    format: Int8 | Int4Group,
) -> PackedExperts:
    """See `Operations.pack_experts`: a layer of `pack_linear` for each expert, a dense router."""
    is_exact = dtype == torch.float32
    arithmetic = Arithmetic(
        partial(pack_linear, format=format),
        exact.silu_mul if is_exact else rows.silu_mul,
        torch.float64 if is_exact else torch.float32,
    )
    pack_router = exact.pack_linear if is_exact else linear.pack_linear
    return experts.pack_separate(pack_router(router, None), gate_up, down, routing, arithmetic)
