"""Launches of row kernels where nothing was tuned for the GPU.

Invariant: as `kernels.triton.defaults` says.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.triton.launch import Config, Tuned

# Of a row kernel, each thread holds 16 to 32 elements: enough loads in flight, few registers.
_ROWS = (
    Tuned({"hidden": 512}, Config({"BLOCK": 512}, num_warps=1)),
    Tuned({"hidden": 1024}, Config({"BLOCK": 1024}, num_warps=2)),
    Tuned({"hidden": 2048}, Config({"BLOCK": 2048}, num_warps=4)),
    Tuned({"hidden": 4096}, Config({"BLOCK": 4096}, num_warps=8)),
    Tuned({"hidden": 8192}, Config({"BLOCK": 8192}, num_warps=16)),
    Tuned({"hidden": 16384}, Config({"BLOCK": 16384}, num_warps=16)),
)

# Of a gated activation, each thread holds 8 to 16 columns of both halves.
_GATED = (
    Tuned({"columns": 512}, Config({"BLOCK": 512}, num_warps=2)),
    Tuned({"columns": 1024}, Config({"BLOCK": 1024}, num_warps=4)),
    Tuned({"columns": 2048}, Config({"BLOCK": 2048}, num_warps=4)),
)

ROWS: Mapping[str, tuple[Tuned, ...]] = {
    "rms_norm": _ROWS,
    "layer_norm": _ROWS,
    "norm_heads": (
        Tuned({"head_dim": 64}, Config({"BLOCK_HEADS": 16}, num_warps=4)),
        Tuned({"head_dim": 128}, Config({"BLOCK_HEADS": 8}, num_warps=4)),
        Tuned({"head_dim": 256}, Config({"BLOCK_HEADS": 4}, num_warps=4)),
    ),
    "rope": (
        Tuned({"rotary_dim": 64}, Config({"BLOCK_HEADS": 16}, num_warps=2)),
        Tuned({"rotary_dim": 128}, Config({"BLOCK_HEADS": 16}, num_warps=4)),
        Tuned({"rotary_dim": 256}, Config({"BLOCK_HEADS": 8}, num_warps=4)),
    ),
    "silu_mul": _GATED,
    "gelu_mul": _GATED,
}
