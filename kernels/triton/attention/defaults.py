"""Launches of attention where nothing was tuned for the GPU.

Invariant: as `kernels.triton.defaults` says, and 16-bit products of prefill reach wgmma; but a
float32 head wider than 128 spills a little.
"""

from __future__ import annotations

from kernels.triton.launch import Config, Tuned


def _prefill(
    kv_bits: int, head_dim: int, tile: tuple[int, int], warps: int = 8, stages: int = 3
) -> Tuned:
    tiles = dict(zip(("BLOCK_M", "BLOCK_N"), tile, strict=True))
    return Tuned({"kv_bits": kv_bits, "head_dim": head_dim}, Config(tiles, warps, stages))


# With three stages the next turn's keys arrive while this turn is computed; with two, the compiler
# asks for them at a turn's end and waits for them at once. A wide head leaves registers for fewer
# keys, and so do int8 keys and values, which pass through registers on their way to wgmma.
PREFILL = (
    _prefill(16, 128, (128, 64)),
    _prefill(16, 256, (128, 32)),
    _prefill(8, 64, (128, 64)),
    _prefill(8, 128, (128, 32)),
    _prefill(8, 256, (128, 16)),
    # float32 takes six products for one.
    _prefill(32, 128, (16, 32), warps=4, stages=2),
    _prefill(32, 256, (16, 16), stages=2),
)


def _decode(kv_bits: int, head_dim: int, block_n: int, warps: int = 4, stages: int = 3) -> Tuned:
    shape = {"kv_bits": kv_bits, "head_dim": head_dim}
    return Tuned(shape, Config({"BLOCK_N": block_n}, warps, stages))


# Bytes in flight are what counts: 16 to 32 KiB a turn, two turns ahead, three or four programs on
# a processor.
DECODE = (
    _decode(16, 64, 128),
    _decode(16, 128, 64),
    _decode(16, 256, 32),
    _decode(8, 64, 128),
    _decode(8, 128, 64),
    _decode(8, 256, 32, warps=8),
    _decode(32, 128, 32),
    _decode(32, 256, 16, warps=8, stages=2),
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
