"""Entries of the compiled operations."""

from __future__ import annotations

from functools import partial

import torch

from kernels.c.attention import NativeAttention
from kernels.c.calls import Calls
from kernels.c.int8_cache import Int8Caches
from kernels.c.linear import NativeExperts, PackedLinear, packable
from kernels.c.quantised import QuantisedLinear
from kernels.c.quantised_experts import QuantisedExperts
from kernels.c.rows import NativeRows
from kernels.cpu.entries import pack_each
from kernels.formats import Dense, Int4Group, Int8, KvInt8
from kernels.table import Table


def add_entries(table: Table, calls: Calls) -> None:
    """Add the compiled operations, whose calls are recorded by `calls`, the table's recorder."""
    rows, attention = NativeRows(calls), NativeAttention(calls)
    table.add(rows, recorded=True)
    table.add(attention, recorded=True)
    table.add(Int8Caches(rows, attention), KvInt8(), recorded=True)
    dense, gated = partial(PackedLinear, calls), partial(PackedLinear, calls, gated=True)
    table.add_layer("pack_linear", dense, Dense, packable, recorded=True)
    table.add_layer("pack_gated", gated, Dense, packable, recorded=True)
    table.add_layer(
        "pack_experts", partial(NativeExperts.pack, calls), Dense, packable, recorded=True
    )
    for format in (Int8, Int4Group):
        linear, experts = partial(QuantisedLinear, calls), partial(QuantisedExperts, calls)
        table.add_layer("pack_linear", linear, format, recorded=True)
        table.add_layer("pack_experts", experts, format, recorded=True)


def add_quantised_entries(table: Table, calls: Calls) -> None:
    """Add the compiled products of float32 rows with quantised weights, for exact operations."""
    linear = partial(QuantisedLinear, calls)
    for format in (Int8, Int4Group):
        table.add_layer("pack_linear", linear, format)
        table.add_layer("pack_experts", partial(pack_each, linear, torch.float32), format)
