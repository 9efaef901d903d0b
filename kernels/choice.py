"""Which set of operations serves: by device, dtype and how weights and caches are kept.

Invariant: a set that cannot be had here is refused with the remedy, never replaced by another.
"""

from __future__ import annotations

import torch

from kernels.devices import UnsupportedDevice, prepare_triton
from kernels.ops import Operations

UNQUANTISED = "none"
"""The name of weights that stay as they are."""

KV_AS_COMPUTED = "auto"
"""The name of caches in the dtype that the model computes in."""

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def operations_for(
    device: str, dtype: torch.dtype, quantize: str = UNQUANTISED, kv_dtype: str = KV_AS_COMPUTED
) -> Operations:
    """Choose the set of operations for `device`.

    Args:
        device: "cpu", where float32 is computed so that a token's result does not depend on what
            else is in the step; "cuda" for Triton kernels; "interpret" for the same under Triton's
            interpreter, on a CPU; "reference" for the plain oracle, on any device.
        dtype: what the model computes in; the oracle takes float64 too.
        quantize: how linear layers and experts are packed: "none" as they are, "int8" or "int4"
            for weights of so many bits, "w8a8" for weights and activations of 8.
        kv_dtype: of the caches: "auto" for `dtype`, "int8" for `Int8Rows`.

    Raises:
        UnsupportedDevice: there is no such set here; the message says what to do.
    """
    known = (*FLOAT_DTYPES, torch.float64) if device == "reference" else FLOAT_DTYPES
    if dtype not in known:
        names = ", ".join(str(known).removeprefix("torch.") for known in FLOAT_DTYPES)
        raise UnsupportedDevice(f"device {device!r} cannot compute in {dtype}: use {names}")
    if device == "cpu":
        return _operations_of_cpu(dtype, quantize, kv_dtype)
    if kv_dtype != KV_AS_COMPUTED:
        raise UnsupportedDevice(
            f"device {device!r} has no {kv_dtype} KV cache: KV dtype auto, or run with --device cpu"
        )
    if quantize != UNQUANTISED:
        raise UnsupportedDevice(
            f"device {device!r} has no quantised weights: quantize none, or run with --device cpu"
        )
    if device == "reference":
        from kernels import reference

        return reference
    if device in ("cuda", "interpret"):
        prepare_triton(device)
        from kernels.triton import operations

        return operations
    raise UnsupportedDevice(f"unknown device {device!r}: use cpu, cuda or interpret")


def _operations_of_cpu(dtype: torch.dtype, quantize: str, kv_dtype: str) -> Operations:
    from kernels.c.int8_cache import serving_int8_caches
    from kernels.c.library import chosen
    from kernels.c.operations import serving
    from kernels.c.quantised import quantised
    from kernels.cpu import exact
    from kernels.cpu.quantised import QUANTISATIONS

    base: Operations = exact if dtype == torch.float32 else serving()
    if kv_dtype != KV_AS_COMPUTED:
        base = serving_int8_caches(dtype)
    if quantize == UNQUANTISED:
        return base
    if quantize not in QUANTISATIONS:
        names = ", ".join((UNQUANTISED, *QUANTISATIONS))
        raise UnsupportedDevice(f"unknown quantisation {quantize!r}: use {names}")
    return quantised(base, dtype, QUANTISATIONS[quantize], chosen().library)
