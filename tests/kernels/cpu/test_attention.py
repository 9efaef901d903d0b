"""Attention against the oracle: ragged chunks, permuted slots, everything unused poisoned."""

from __future__ import annotations

import pytest
import torch

from kernels.cpu import attention, decode_attention
from kernels.cpu.decode_attention import DecodeBlock, SingleDecode
from kernels.ops import AttentionChunks, AttentionShape, Operations
from kernels.reference.operations import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}
SHAPES = [(4, 2, 64), (5, 1, 20), (3, 3, 10), (8, 4, 2)]
CHUNKS = {
    "one decode": [(1, 1)],
    "one short decode": [(1, 33)],
    "one long decode": [(1, 1700)],
    "like decodes": [(1, 600)] * 5,
    "ragged decodes": [(1, 700), (1, 1), (1, 1500), (1, 2), (1, 690), (1, 1490)],
    "few short decodes": [(1, 3), (1, 1), (1, 2)],
    "whole prompts": [(7, 7), (1, 1), (65, 65)],
    "later chunks": [(2, 3), (40, 129), (5, 600)],
    "decodes, then prompts": [(1, 900), (1, 2), (1, 901), (17, 17), (9, 200), (1, 5)],
}


def ragged(chunks: list[tuple[int, int]], slots: int) -> AttentionChunks:
    """Chunks of (queries, length), each with a row and slots of its own; the rest is nonsense."""
    counts, lengths = [list(column) for column in zip(*chunks, strict=True)]
    rows = torch.randperm(len(chunks) + 2)[: len(chunks)]
    table = torch.full((len(chunks) + 2, max(lengths) + 3), 2**31 - 1, dtype=torch.int32)
    free = torch.randperm(slots).to(torch.int32)
    for row, length in zip(rows.tolist(), lengths, strict=True):
        table[row, :length], free = free[:length], free[length:]
    longer = [index for index, count in enumerate(counts) if count > 1]
    return AttentionChunks(
        slot_table=table,
        rows=rows,
        q_starts=torch.tensor([0, *counts]).cumsum(0),
        kv_lengths=torch.tensor(lengths),
        num_decodes=longer[0] if longer else len(counts),
    )


def cache_with(chunks: AttentionChunks, slots: int, heads: int, dim: int) -> torch.Tensor:
    """Random keys or values in the slots that are used, NaN in all others."""
    cache = torch.full((slots, heads, dim), float("nan"))
    for row, length in zip(chunks.rows.tolist(), chunks.kv_lengths.tolist(), strict=True):
        cache[chunks.slot_table[row, :length].long()] = torch.randn(length, heads, dim)
    return cache


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), SHAPES)
@pytest.mark.parametrize("case", CHUNKS)
def test_equals_the_oracle(
    operations: Operations, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, case: str
) -> None:
    slots = 5000
    shape = AttentionShape(heads, kv_heads, head_dim, head_dim**-0.5)
    chunks = ragged(CHUNKS[case], slots)
    caches = [cache_with(chunks, slots, kv_heads, head_dim).to(dtype) for _ in range(2)]
    fused = torch.randn(int(chunks.q_starts[-1]), heads + 2 * kv_heads, head_dim).to(dtype)
    q = fused[:, :heads]
    want = reference.attention(
        q.double(),
        *(cache.double() for cache in caches),
        reference.plan_attention(chunks, shape, torch.float64),
    )

    got = operations.attention(q, *caches, operations.plan_attention(chunks, shape, dtype))

    assert got.is_contiguous()
    error = (got.double() - want).norm() / want.norm()
    assert error < TOLERANCES[dtype]


def test_keys_of_a_long_sequence_are_gathered_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = AttentionShape(4, 2, 64, 0.125)
    chunks = ragged([(1, 1000), (1, 30)], 1500)
    caches = [cache_with(chunks, 1500, 2, 64) for _ in range(2)]
    q = torch.randn(2, 4, 64)
    whole = attention.attention(q, *caches, attention.plan_attention(chunks, shape, torch.float32))

    monkeypatch.setattr(decode_attention, "GATHERED_BYTES", 300 * 4 * 2 * 64)
    in_runs = attention.attention(
        q, *caches, attention.plan_attention(chunks, shape, torch.float32)
    )

    torch.testing.assert_close(in_runs, whole)


def test_every_way_of_decoding_is_exercised() -> None:
    shape = AttentionShape(4, 2, 64, 0.125)

    def kinds(chunks: list[tuple[int, int]]) -> list[type]:
        plan = attention.plan_attention(ragged(chunks, 5000), shape, torch.float32)
        return [type(part) for part in plan.parts]

    assert kinds(CHUNKS["one short decode"]) == [SingleDecode]
    assert kinds(CHUNKS["one long decode"]) == [DecodeBlock]
    assert kinds(CHUNKS["like decodes"]) == [DecodeBlock]
    assert len(kinds(CHUNKS["ragged decodes"])) > 1
