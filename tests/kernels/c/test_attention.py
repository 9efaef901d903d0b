"""Attention in C against the oracle in float64: at every edge of tiles, blocks, bands and splits.

Slots are permuted, and what no sequence has leads to NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from support.kernels.attention_scenes import (
    INT8_TOLERANCE,
    Scene,
    assert_close,
    options_of,
    quantised,
    relative_error,
    scene,
)

from kernels.attention_options import KvScales
from kernels.ops import Operations

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
HEADS = [(20, 4, 64), (2, 2, 32), (7, 1, 80), (4, 2, 256), (40, 1, 16), (3, 3, 7)]
# Around tiles (32), bands (8 to 32 queries), blocks of keys (64) and splits (512).
DECODES = [(1, length) for length in (1, 2, 31, 32, 33, 64, 511, 512, 513, 1100)]
CHUNKS = [(1, 40), (1, 1), (7, 7), (64, 64), (2, 3), (33, 129), (5, 600), (1, 63), (65, 130)]
NUM_DECODES = 2


def attend(operations: Operations, of: Scene) -> torch.Tensor:
    plan = operations.plan_attention(of.chunks, of.shape, of.q.dtype)
    return operations.attention(of.q, of.k_cache, of.v_cache, plan, of.scales)


def alone(of: Scene, index: int) -> Scene:
    """One chunk of a step, as if it came by itself."""
    start, past = of.chunks.q_starts[index : index + 2].tolist()
    chunks = replace(
        of.chunks,
        rows=of.chunks.rows[index : index + 1].clone(),
        q_starts=torch.tensor([0, past - start]),
        kv_lengths=of.chunks.kv_lengths[index : index + 1].clone(),
        num_decodes=int(index < of.chunks.num_decodes),
    )
    return replace(of, q=of.q[start:past], chunks=chunks)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_decodes_equal_the_oracle(
    native_operations: Operations, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    step = scene("cpu", DECODES, heads, dtype, num_decodes=len(DECODES))
    assert_close(attend(native_operations, step), step.expected(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_prompts_among_decodes_equal_the_oracle(
    native_operations: Operations, heads: tuple[int, int, int], dtype: torch.dtype
) -> None:
    step = scene("cpu", CHUNKS, heads, dtype, NUM_DECODES)
    assert_close(attend(native_operations, step), step.expected(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(20, 4, 64), (7, 1, 80)], ids=str)
@pytest.mark.parametrize("chunks", [DECODES, CHUNKS], ids=["decodes", "chunks"])
def test_int8_caches_equal_the_oracle_with_the_same_caches(
    native_operations: Operations,
    chunks: Sequence[tuple[int, int]],
    heads: tuple[int, int, int],
    dtype: torch.dtype,
) -> None:
    decodes = len(DECODES) if chunks is DECODES else NUM_DECODES
    exact = scene("cpu", chunks, heads, dtype, decodes)
    step = quantised(exact)

    got = attend(native_operations, step)

    assert_close(got, step.expected(), dtype)
    assert relative_error(got, exact.expected()) < INT8_TOLERANCE


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_nothing(native_operations: Operations, threads: int) -> None:
    steps = [
        scene("cpu", CHUNKS, (20, 4, 64), torch.bfloat16, NUM_DECODES),
        scene("cpu", [(1, 2000), (1, 5)], (20, 4, 64), torch.bfloat16, 2),
    ]
    before = [attend(native_operations, step) for step in steps]

    torch.set_num_threads(threads)
    after = [attend(native_operations, step) for step in steps]
    torch.set_num_threads(1)

    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("index", range(len(DECODES)))
def test_a_decode_is_the_same_in_any_company(native_operations: Operations, index: int) -> None:
    step = scene("cpu", DECODES, (4, 2, 64), torch.bfloat16, len(DECODES))

    together = attend(native_operations, step)

    assert torch.equal(together[index : index + 1], attend(native_operations, alone(step, index)))


def test_a_plan_serves_every_layer(native_operations: Operations) -> None:
    first = scene("cpu", [(1, 1200), (1, 700)], dtype=torch.float32, num_decodes=2)
    second = replace(first, k_cache=first.k_cache.neg(), v_cache=first.v_cache.mul(2))
    plan = native_operations.plan_attention(first.chunks, first.shape, torch.float32)

    for layer in (first, second, first):
        got = native_operations.attention(layer.q, layer.k_cache, layer.v_cache, plan)
        assert_close(got, layer.expected(), torch.float32)


def test_great_scores_neither_overflow_nor_vanish(native_operations: Operations) -> None:
    step = scene("cpu", CHUNKS, (4, 2, 32), torch.float32, NUM_DECODES)
    step = replace(step, q=step.q * 300)

    assert_close(attend(native_operations, step), step.expected(), torch.float32)


def test_what_is_not_a_number_stays_so(native_operations: Operations) -> None:
    step = scene("cpu", [(1, 40), (9, 9)], (4, 2, 32), torch.bfloat16, 1)
    q = step.q.clone()
    q[0, 1], q[4, 2] = torch.nan, torch.nan

    got = attend(native_operations, replace(step, q=q)).isnan().all(-1)

    assert got.nonzero().tolist() == [[0, 1], [4, 2]]


@pytest.mark.parametrize("names", ["window", "soft_cap", "sinks", "alibi", "alibi+window+sinks"])
def test_options_are_computed_too(native_operations: Operations, names: str) -> None:
    step, options = scene("cpu", CHUNKS, num_decodes=NUM_DECODES), options_of("cpu", 4, names)

    plan = native_operations.plan_attention(step.chunks, step.shape, step.q.dtype, options)
    got = native_operations.attention(step.q, step.k_cache, step.v_cache, plan)

    assert_close(got, step.expected(options), torch.bfloat16)


def test_tensors_that_would_be_misread_are_refused(native_operations: Operations) -> None:
    step = scene("cpu", [(1, 4)], (4, 2, 32), torch.bfloat16, 1)
    plan = native_operations.plan_attention(step.chunks, step.shape, torch.bfloat16)
    q, k, v = step.q, step.k_cache, step.v_cache
    wrong = [
        (q.float(), k, v),
        (q[:, :2], k, v),
        (q, k.float(), v.float()),
        (q, k, v.contiguous()),
        (q, k[:, :1], v[:, :1]),
        (q.transpose(1, 2).contiguous().transpose(1, 2), k, v),
    ]
    for tensors in wrong:
        with pytest.raises(ValueError, match="expected"):
            native_operations.attention(*tensors, plan)
    scales = KvScales(torch.zeros(3, 2).half(), torch.zeros(3, 2).half())
    with pytest.raises(ValueError, match="scales"):
        native_operations.attention(q, k.to(torch.int8), v.to(torch.int8), plan, scales)
