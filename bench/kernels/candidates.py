"""Launches that are worth trying, by kernel.

Invariant: each sets the constants that the kernel's defaults set, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from kernels.triton.launch import Config

_Tiles = Mapping[str, tuple[int, ...]]

# Constants, warps and stages; every combination is tried.
_SPACES: Mapping[str, tuple[_Tiles, tuple[int, ...], tuple[int, ...]]] = {
    "store_kv": ({"BLOCK_ROWS": (4, 8, 16, 32, 64)}, (2, 4, 8), (2,)),
    "norm_heads": ({"BLOCK_HEADS": (4, 8, 16, 32)}, (1, 2, 4, 8), (2,)),
    "rope": ({"BLOCK_HEADS": (4, 8, 16, 32)}, (1, 2, 4, 8), (2,)),
    "silu_mul": ({"BLOCK": (512, 1024, 2048, 4096)}, (2, 4, 8), (2,)),
    "gelu_mul": ({"BLOCK": (512, 1024, 2048, 4096)}, (2, 4, 8), (2,)),
    "decode_attention": ({"BLOCK_N": (32, 64, 128)}, (4, 8), (2, 3, 4)),
    "decode_splits": ({"PROGRAMS": (2, 3, 4, 6, 8), "SHORTEST": (128, 256, 512)}, (4,), (2,)),
    "sampling_tile": ({"BLOCK": (1024, 2048, 4096)}, (4, 8, 16), (2,)),
    "sampling_row": ({"TILE": (512, 1024, 2048)}, (4, 8, 16), (2,)),
    "edit_logits": ({"BLOCK": (1024, 2048, 4096), "PART": (8192, 16384)}, (4, 8), (2,)),
    "log_probabilities": ({"BLOCK": (2048, 4096)}, (4, 8, 16), (2,)),
}
_ROW_WARPS = (2, 4, 8, 16, 32)


def candidates(kernel: str, shape: Mapping[str, int]) -> list[Config]:
    """Launches to try for a shape, in the form that `choose` takes it.

    Raises:
        LookupError: nothing is known of the kernel.
    """
    if kernel in ("rms_norm", "layer_norm"):
        # A row that one tile holds is read once.
        return [Config({"BLOCK": shape["hidden"]}, warps) for warps in _ROW_WARPS]
    if kernel == "prefill_attention":
        return _prefill(shape)
    if kernel not in _SPACES:
        raise LookupError(f"no launches to try are known for {kernel!r}")
    tiles, all_warps, all_stages = _SPACES[kernel]
    return [
        Config(dict(zip(tiles, sizes, strict=True)), warps, stages)
        for sizes in product(*tiles.values())
        for warps in all_warps
        for stages in all_stages
    ]


def _prefill(shape: Mapping[str, int]) -> list[Config]:
    # Four warps share the 64 rows of a product. What registers and shared memory do not hold is
    # left out; int8 values pass through registers.
    most = 64 if shape["kv_bits"] == 8 else 128
    return [
        Config({"BLOCK_M": rows, "BLOCK_N": keys}, rows // 16, stages)
        for rows in (64, 128)
        for keys in (16, 32, 64, 128)
        for stages in (2, 3, 4)
        if keys <= min(most, rows) and keys * stages <= 384
    ]
