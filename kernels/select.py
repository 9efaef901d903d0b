"""Selection of operations: by device, dtype, and formats of weights and caches.

Invariant: what cannot be had here is refused with the remedy, never replaced by something else.
"""

from __future__ import annotations

import torch

from kernels.bound import bind
from kernels.c.calls import Calls
from kernels.c.entries import add_entries as add_compiled
from kernels.c.entries import add_quantised_entries as add_compiled_quantised
from kernels.c.library import Choice, Library, load_library
from kernels.cpu.entries import add_entries as add_torch
from kernels.devices import DTYPES, UnsupportedDevice
from kernels.formats import DENSE, KV_AS_COMPUTED, KvFormat, KvInt8, WeightFormat
from kernels.ops import Operations
from kernels.table import Table
from kernels.triton.process import prepare_triton


def operations_for(
    device: str,
    dtype: torch.dtype,
    weights: WeightFormat = DENSE,
    caches: KvFormat = KV_AS_COMPUTED,
) -> Operations:
    """Select the operations of `device`.

    Args:
        device: "cpu", where float32 is computed so that a token's result does not depend on what
            else is in the step; "cuda" for Triton kernels; "interpret" for the same under Triton's
            interpreter, on a CPU.
        dtype: of activations.
        weights: the format of layers that are packed without one of their own.
        caches: the format of all caches.

    Raises:
        UnsupportedDevice: there are no such operations here; the message says what to do.
    """
    if device not in ("cpu", "cuda", "interpret"):
        raise UnsupportedDevice(f"unknown device {device!r}: use cpu, cuda or interpret")
    if dtype not in DTYPES:
        names = ", ".join(str(known).removeprefix("torch.") for known in DTYPES)
        raise UnsupportedDevice(f"device {device!r} cannot compute in {dtype}: use {names}")
    if device == "cpu":
        choice = load_library()
        if isinstance(caches, KvInt8):
            _check_int8_caches(dtype, choice)
        return bind(table_of_cpu(dtype, choice.library), weights, caches)
    prepare_triton(device)
    from kernels.triton.entries import add_entries as add_triton

    table = Table(device)
    add_triton(table)
    return bind(table, weights, caches)


def table_of_cpu(dtype: torch.dtype, library: Library | None) -> Table:
    """The table of a CPU for `dtype`; without a library PyTorch computes everything."""
    if library is None:
        table = Table("cpu")
    elif dtype == torch.float32:
        table = Table("cpu")
        add_compiled_quantised(table, Calls(library))
    else:
        calls = Calls(library)
        table = Table("cpu", calls)
        add_compiled(table, calls)
    add_torch(table, dtype)
    return table


def _check_int8_caches(dtype: torch.dtype, choice: Choice) -> None:
    if dtype == torch.float32:
        raise UnsupportedDevice(
            "float32 is computed exactly, which an int8 KV cache is not: use --dtype bfloat16, "
            "or KV dtype auto"
        )
    if choice.library is None:
        raise UnsupportedDevice(f"an int8 KV cache needs native operations: {choice.why_not}")
