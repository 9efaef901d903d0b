"""Caches of int8: what is stored is what attention reads, to within half a step."""

from __future__ import annotations

import pytest
import torch
from support.kernels.attention_scenes import options_of, scene
from support.kernels.operations import compiled

from kernels.attention_options import Int8Rows
from kernels.c.library import Library
from kernels.devices import UnsupportedDevice
from kernels.formats import KvInt8
from kernels.ops import AttentionChunks, AttentionShape
from kernels.reference.operations import reference

SLOTS, KV_HEADS, HEAD_DIM = 60, 2, 20
SHAPE = AttentionShape(heads=6, kv_heads=KV_HEADS, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5)


def empty() -> Int8Rows:
    rows = torch.randint(-128, 128, (SLOTS, KV_HEADS, HEAD_DIM), dtype=torch.int8)
    return Int8Rows(rows, torch.full((SLOTS, KV_HEADS), torch.nan, dtype=torch.float16))


def test_attention_reads_what_was_stored(native_library: Library) -> None:
    ops = compiled(native_library, caches=KvInt8())
    k, v = torch.randn(2, 43, KV_HEADS, HEAD_DIM).bfloat16()
    slots = torch.randperm(SLOTS)[:43]
    q = torch.randn(13, SHAPE.heads, HEAD_DIM).bfloat16()
    table = torch.zeros(2, 40, dtype=torch.int32)
    table[0, :31], table[1, :12] = slots[:31].int(), slots[31:].int()
    chunks = AttentionChunks(
        slot_table=table,
        rows=torch.tensor([0, 1]),
        q_starts=torch.tensor([0, 1, 13]),
        kv_lengths=torch.tensor([31, 12]),
        num_decodes=1,
    )
    k_cache, v_cache = empty(), empty()
    ops.store_kv(k, v, slots, k_cache, v_cache)
    whole = torch.zeros(2, SLOTS, KV_HEADS, HEAD_DIM, dtype=torch.float64)
    for cache, given, held in zip((k_cache, v_cache), (k, v), whole, strict=True):
        held[slots] = cache.rows[slots].double() * cache.scales[slots].double()[:, :, None]
        step = given.abs().amax(2, keepdim=True).double() / 127
        assert ((held[slots] - given).abs() <= 0.52 * step).all()

    got = ops.attention(q, k_cache, v_cache, ops.plan_attention(chunks, SHAPE, torch.bfloat16))

    plan = reference.plan_attention(chunks, SHAPE, torch.float64)
    want = reference.attention(q.double(), whole[0], whole[1], plan)
    assert (got.double() - want).norm() / want.norm() < 1e-2


@pytest.mark.parametrize("name", ["window", "soft_cap", "sinks", "alibi"])
def test_options_are_refused_by_name(native_library: Library, name: str) -> None:
    ops = compiled(native_library, caches=KvInt8())
    step, options = scene("cpu", [(1, 4)]), options_of("cpu", 4, name)

    with pytest.raises(UnsupportedDevice, match=rf"has no {options.names()}: KV dtype auto"):
        ops.plan_attention(step.chunks, step.shape, torch.bfloat16, options)
