"""The oracle as operations that a model can be run with, on any device and in any dtype."""

from __future__ import annotations

from kernels.bound import bind
from kernels.formats import KV_FORMATS, Dense
from kernels.ops import Operations
from kernels.reference import attention, rows
from kernels.reference.products import Experts
from kernels.table import Table
from kernels.uncaptured import TorchLinear


def reference_operations() -> Operations:
    """Operations of dense weights, over caches of both formats."""
    table = Table("reference")
    table.add(rows)
    for caches in KV_FORMATS.values():
        table.add(attention, caches)
    table.add_layer("pack_linear", TorchLinear, Dense)
    table.add_layer("pack_experts", Experts, Dense)
    return bind(table)


reference = reference_operations()
