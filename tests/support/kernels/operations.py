"""Operations of a CPU as tests want them: of one library, whatever the dtype."""

from __future__ import annotations

from typing import Any

import torch

from kernels.bound import bind
from kernels.c.calls import Calls
from kernels.c.entries import add_entries
from kernels.c.library import Library
from kernels.cpu.entries import add_entries as add_torch
from kernels.formats import DENSE, KV_AS_COMPUTED, WEIGHT_FORMATS, KvFormat, WeightFormat
from kernels.ops import Operations
from kernels.select import table_of_cpu
from kernels.table import Table


def compiled(
    library: Library, weights: WeightFormat = DENSE, caches: KvFormat = KV_AS_COMPUTED
) -> Any:
    """The compiled operations for all dtypes, float32 too; `recorder` is the library's `Calls`."""
    calls = Calls(library)
    table = Table("cpu", calls)
    add_entries(table, calls)
    add_torch(table, torch.bfloat16)
    return bind(table, weights, caches)


QUANTISED = [name for name in WEIGHT_FORMATS if name != "none"]
"""Names of the formats that are not dense."""


def in_torch(dtype: torch.dtype = torch.bfloat16, weights: WeightFormat = DENSE) -> Operations:
    """The operations in PyTorch."""
    return bind(table_of_cpu(dtype, None), weights)
