"""The check of machine code turns red when a kernel is made worse on purpose."""

# ruff: noqa: N803 (constants of a kernel are spelled so)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from support.kernels.ahead_of_time import GFX_942, Expected, Needs, compiling, complaints, meta

from kernels.triton.configs import Config, forced
from kernels.triton.rows.rms_norm import rms_norm


def _gathered_attention(
    q_ptr, keys_ptr, key_stride_s, slots_ptr, out_ptr, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    row, dim = tl.arange(0, ROWS)[:, None], tl.arange(0, DIM)[None, :]
    q = tl.load(q_ptr + row * DIM + dim)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    for start in range(0, length, COLUMNS):
        slots = tl.load(slots_ptr + start + tl.arange(0, COLUMNS))
        keys = tl.load(keys_ptr + slots[:, None] * key_stride_s + dim)
        scores = tl.dot(q, tl.trans(keys)).to(tl.bfloat16)
        acc = tl.dot(scores, keys, acc)
    tl.store(out_ptr + row * DIM + dim, acc.to(tl.bfloat16))


GOOD = triton.jit(_gathered_attention)
HINTLESS = triton.jit(_gathered_attention, do_not_specialize=["key_stride_s"])
NEEDS = Needs(wgmma=1, async_copies=1)


def gathered_attention(
    kernel: Any = GOOD,
    rows: int = 128,
    columns: int = 64,
    dim: int = 128,
    num_warps: int = 8,
    num_stages: int = 2,
    slot_dtype: torch.dtype = torch.int64,
) -> Expected:
    def call() -> None:
        q, keys, slots = meta(rows, dim), meta(4096, dim), meta(512, dtype=slot_dtype)
        kernel[(1,)](
            q, keys, keys.stride(0), slots, q, slots.shape[0],
            ROWS=rows, COLUMNS=columns, DIM=dim, num_warps=num_warps, num_stages=num_stages,
        )  # fmt: skip

    return Expected("gathered attention", call, {"_gathered_attention": NEEDS})


def test_a_pipelined_kernel_is_passed() -> None:
    assert complaints(gathered_attention()) == []


@pytest.mark.parametrize(
    ("worse", "complaint"),
    [
        (lambda: gathered_attention(num_stages=1), "async_copies: 0, least 1"),
        (lambda: gathered_attention(HINTLESS), "async_copies: 0, least 1"),
        (lambda: gathered_attention(rows=16, num_warps=4), "wgmma: 0, least 1"),
        (lambda: gathered_attention(rows=256, dim=256, num_warps=4), "stack_bytes: "),
        (lambda: gathered_attention(columns=128, dim=256, num_stages=8), "shared_bytes: "),
        (lambda: gathered_attention(slot_dtype=torch.int32), "key_stride_s in 32 bits"),
    ],
    ids=["unpipelined", "unaligned", "few rows", "few warps", "many stages", "narrow slots"],
)
def test_a_kernel_made_worse_is_complained_of(
    worse: Callable[[], Expected], complaint: str
) -> None:
    assert [found for found in complaints(worse()) if complaint in found]


@pytest.mark.parametrize(
    ("config", "strides", "complaint"),
    [
        (Config({"BLOCK": 16384}, num_warps=1), (16384, 1), "stack_bytes: "),
        (Config({"BLOCK": 16384}, num_warps=16), (16385, 1), "wide_loads: "),
    ],
    ids=["few warps", "unaligned rows"],
)
def test_a_kernel_of_the_project_launched_worse_is_complained_of(
    config: Config, strides: tuple[int, ...], complaint: str
) -> None:
    def call() -> None:
        with forced("rms_norm", config):
            rms_norm(meta(64, 16384, strides=strides), meta(16384), 1e-5)

    needs = {"_rms_norm_kernel": Needs(wide_loads=8)}

    assert [found for found in complaints(Expected("worse", call, needs)) if complaint in found]


def test_a_kernel_that_no_table_names_is_complained_of() -> None:
    expected = gathered_attention()

    found = complaints(Expected("nothing", expected.call, {}))

    assert found == ["launched are _gathered_attention"]


def test_a_grid_that_no_gpu_takes_is_complained_of() -> None:
    def call() -> None:
        q, slots = meta(128, 128), meta(512, dtype=torch.int64)
        GOOD[(1, 65_536)](
            q, q, 128, slots, q, 512, ROWS=128, COLUMNS=64, DIM=128, num_warps=8, num_stages=2
        )

    (found,) = complaints(Expected("wide", call, {"_gathered_attention": NEEDS}))

    assert "grid (1, 65536)" in found


def test_each_target_gets_code_of_its_own() -> None:
    call = gathered_attention().call
    with compiling() as nvidia:
        call()
    with compiling(GFX_942) as amd:
        call()

    assert "cubin" in nvidia[0].compiled.asm
    assert "hsaco" in amd[0].compiled.asm
