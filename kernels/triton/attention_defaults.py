"""How attention is launched where nothing was tuned for the GPU.

Invariant: as `kernels.triton.defaults` says; 16-bit products of prefill reach wgmma.
"""

from __future__ import annotations

from kernels.triton.launch import Config, Tuned


def _prefill(kv_bits: int, head_dim: int, block_m: int, block_n: int, warps: int) -> Tuned:
    tiles = {"BLOCK_M": block_m, "BLOCK_N": block_n}
    return Tuned({"kv_bits": kv_bits, "head_dim": head_dim}, Config(tiles, warps, num_stages=2))


# Two stages hide a gather behind two products; a wide head leaves registers for fewer keys.
PREFILL = (
    _prefill(16, 128, 128, 64, 8),
    _prefill(16, 256, 128, 32, 8),
    # int8 keys and values pass through registers on their way to wgmma.
    _prefill(8, 64, 128, 64, 8),
    _prefill(8, 128, 128, 32, 8),
    # float32 is there for tests: its products are not tensor cores'.
    _prefill(32, 128, 32, 32, 4),
)


def _decode(kv_bits: int, head_dim: int, block_n: int, stages: int) -> Tuned:
    shape = {"kv_bits": kv_bits, "head_dim": head_dim}
    return Tuned(shape, Config({"BLOCK_N": block_n}, num_warps=4, num_stages=stages))


# Bytes in flight are what counts: two such programs on a processor have over 64 KiB asked for.
DECODE = (
    _decode(16, 64, 128, 3),
    _decode(16, 128, 64, 3),
    _decode(16, 256, 32, 3),
    _decode(8, 64, 128, 3),
    _decode(8, 128, 64, 3),
    _decode(32, 128, 32, 2),
)

# Programs that the keys of a step are shared out among, for each of the GPU's processors, and
# the fewest positions that are worth a program.
SPLITS = (Tuned({}, Config({"PROGRAMS": 4, "SHORTEST": 256})),)

# Four loads of 16 bytes in flight in each thread, of K and V together.
STORE = (
    Tuned({"kv_bits": 16, "head_dim": 64}, Config({"BLOCK_ROWS": 32})),
    Tuned({"kv_bits": 16, "head_dim": 128}, Config({"BLOCK_ROWS": 16})),
    Tuned({"kv_bits": 16, "head_dim": 256}, Config({"BLOCK_ROWS": 8})),
)
