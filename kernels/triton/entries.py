"""Entries of the operations on a GPU, or on a CPU under Triton's interpreter.

Products have no kernel of ours yet and are PyTorch's. Invariant: nothing waits for the device, as
long as the host knows how many tokens a step has.
"""

from __future__ import annotations

from kernels import uncaptured
from kernels.formats import Dense, KvInt8
from kernels.table import Table
from kernels.triton.attention import int8_cache, plan, store_kv
from kernels.triton.experts import GroupedExperts
from kernels.triton.rows import activations, layer_norm, lookups, rms_norm
from kernels.uncaptured import TorchLinear


def add_entries(table: Table) -> None:
    """Add the entries of all dtypes."""
    for rows in (lookups, rms_norm, layer_norm, activations, uncaptured):
        table.add(rows)
    table.add(store_kv)
    table.add(plan)
    table.add(int8_cache, KvInt8())
    table.add_layer("pack_linear", TorchLinear, Dense)
    table.add_layer("pack_experts", GroupedExperts, Dense)
