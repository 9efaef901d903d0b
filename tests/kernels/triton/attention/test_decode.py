"""One token per sequence against the oracle, split in many ways, on caches whose rest is NaN."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.kernels.attention_scenes import (
    INT8_TOLERANCE,
    PLAIN,
    Scene,
    assert_close,
    options_of,
    quantised,
    relative_error,
    scene,
)

from kernels.attention_options import AttentionOptions
from kernels.triton.attention.decode import decode_attention
from kernels.triton.attention.splits import DecodeBuffers, DecodePlan, plan_decode
from kernels.triton.configs import Config, forced

BLOCK_N = 16
SMALL = Config({"BLOCK_N": BLOCK_N}, num_warps=4, num_stages=2)
# Around one and two blocks of keys; two sequences are empty, as in a step padded for a graph.
LENGTHS = [1, 15, 16, 17, 0, 31, 32, 33, 70, 0]


def decodes(
    device: str,
    lengths: list[int],
    heads: tuple[int, int, int] = (4, 2, 32),
    dtype: torch.dtype = torch.bfloat16,
) -> Scene:
    """A step of decodes; an empty sequence has a token all the same."""
    return scene(device, [(1, length) for length in lengths], heads, dtype, len(lengths))


def plan_of(
    step: Scene, options: AttentionOptions = PLAIN, splits: int = 5, shortest: int = 16
) -> DecodePlan:
    sequences = step.chunks.num_decodes
    with (
        forced("decode_attention", SMALL),
        forced("decode_splits", Config({"PROGRAMS": 1, "SHORTEST": shortest})),
    ):
        buffers = DecodeBuffers.allocate(sequences, step.shape, step.q.device, splits)
        return plan_decode(step.chunks, step.shape, step.k_cache.dtype, options, buffers)


def attend(
    step: Scene, options: AttentionOptions = PLAIN, splits: int = 5, shortest: int = 16
) -> torch.Tensor:
    plan = plan_of(step, options, splits, shortest)
    return decode_attention(step.q, step.k_cache, step.v_cache, plan, step.scales)


def items_of(plan: DecodePlan) -> list[list[tuple[int, int]]]:
    """The positions of every sequence's items; spans and work agree."""
    work = plan.buffers.work[:, : plan.items].T.tolist()
    spans = plan.buffers.spans[:, : plan.chunks.num_decodes].T.tolist()
    used = sum(count for _, count in spans)
    assert all(sequence == -1 for sequence, *_ in work[used:])
    for sequence, (first, count) in enumerate(spans):
        assert all(owner == sequence for owner, *_ in work[first : first + count])
    return [
        [(begin, end) for *_, begin, end in work[first : first + count]] for first, count in spans
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ragged_sequences_match_the_oracle_and_empty_ones_give_zeros(
    device: str, dtype: torch.dtype
) -> None:
    step = decodes(device, LENGTHS, dtype=dtype)

    out = attend(step)

    assert_close(out, step.expected(), dtype)
    assert (out[[4, 9]] == 0).all()


@pytest.mark.parametrize(
    "heads", [(2, 2, 32), (3, 1, 64), (14, 2, 80), (4, 4, 96), (24, 1, 128), (2, 1, 256)]
)
def test_any_group_and_head_dim_matches_the_oracle(
    device: str, heads: tuple[int, int, int]
) -> None:
    step = decodes(device, [7, 35], heads)

    assert_close(attend(step), step.expected(), torch.bfloat16)


def test_a_group_of_more_heads_than_a_program_takes_is_shared_out(device: str) -> None:
    step = decodes(device, [7, 35], (2 * 70, 2, 16))

    assert_close(attend(step), step.expected(), torch.bfloat16)


@pytest.mark.parametrize(
    "names",
    ["alibi", "window", "soft_cap", "sinks", "window+sinks", "alibi+window+soft_cap+sinks"],
)
def test_options_match_the_oracle(device: str, names: str) -> None:
    step = decodes(device, LENGTHS)
    options = options_of(device, 4, names)

    out = attend(step, options)

    assert_close(out, step.expected(options), torch.bfloat16)
    assert (out[[4, 9]] == 0).all()


@pytest.mark.parametrize("splits", [1, 2, 7, 40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_how_sequences_are_split_makes_no_difference(
    device: str, dtype: torch.dtype, splits: int
) -> None:
    step = decodes(device, [130, 1, 67], dtype=dtype)
    options = options_of(device, 4, "alibi+sinks")

    out = attend(step, options, splits)

    assert_close(out, step.expected(options), dtype)


@pytest.mark.parametrize("window", [1, BLOCK_N - 1, BLOCK_N, BLOCK_N + 1, 1000])
def test_a_window_of_any_size_matches_the_oracle(device: str, window: int) -> None:
    step = decodes(device, [75, 33, 1])
    options = AttentionOptions(window=window)

    assert_close(attend(step, options), step.expected(options), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("names", ["plain", "alibi+window+soft_cap+sinks"])
def test_int8_caches_are_dequantised_as_they_are_read(
    device: str, dtype: torch.dtype, names: str
) -> None:
    exact = decodes(device, LENGTHS, dtype=dtype)
    options = options_of(device, 4, names)
    step = quantised(exact)

    out = attend(step, options)

    assert_close(out, step.expected(options), dtype)
    assert relative_error(out, exact.expected(options)) < INT8_TOLERANCE


def test_the_default_launch_matches_the_oracle(device: str) -> None:
    step = decodes(device, [63, 64, 65, 600], (8, 2, 128))
    plan = plan_decode(step.chunks, step.shape, step.k_cache.dtype)

    out = decode_attention(step.q, step.k_cache, step.v_cache, plan)

    assert_close(out, step.expected(), torch.bfloat16)


def test_prompt_chunks_are_left_to_their_own_kernel(device: str) -> None:
    step = scene(device, [(1, 5), (1, 9), (20, 30)], num_decodes=2)
    out = torch.full_like(step.q, 7.0, memory_format=torch.contiguous_format)

    decode_attention(step.q, step.k_cache, step.v_cache, plan_of(step), out=out)

    assert (out[2:] == 7).all()
    assert_close(out[:2], step.expected()[:2], torch.bfloat16)


def test_one_long_sequence_is_split_as_often_as_many_short_ones_together(device: str) -> None:
    one = items_of(plan_of(decodes(device, [1600], (1, 1, 16)), splits=20))
    many = items_of(plan_of(decodes(device, [100] * 16, (1, 1, 16)), splits=20))

    assert len(one[0]) == 20
    assert {end - begin for begin, end in one[0]} == {80}
    assert {len(items) for items in many} == {2}


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("lengths", [[1], [0], [0, 0, 5], [16, 17, 400, 0, 3], [64] * 300])
def test_items_cover_what_each_sequence_sees_once(
    device: str, lengths: list[int], window: int
) -> None:
    plan = plan_of(decodes(device, lengths, (1, 1, 16)), AttentionOptions(window=window), splits=3)

    for items, length in zip(items_of(plan), lengths, strict=True):
        seen = [position for begin, end in items for position in range(begin, end)]
        assert seen == list(range(max(length - window, 0) if window else 0, length))


def test_an_item_that_rounding_left_empty_counts_for_nothing(device: str) -> None:
    # Six items of 17 positions become six of 32, the last two of which have none.
    step = decodes(device, [98], (2, 1, 32))
    plan = plan_of(step, splits=6, shortest=1)

    out = decode_attention(step.q, step.k_cache, step.v_cache, plan)

    assert [end - begin for begin, end in items_of(plan)[0]][3] == 2
    assert plan.buffers.log_sums[4:6].isneginf().all()
    assert_close(out, step.expected(), torch.bfloat16)


def test_buffers_serve_steps_of_fewer_sequences(device: str) -> None:
    large, small = decodes(device, LENGTHS), decodes(device, [40, 3])
    buffers = plan_of(large).buffers
    with forced("decode_attention", SMALL):
        plan = plan_decode(small.chunks, small.shape, small.k_cache.dtype, buffers=buffers)

    out = decode_attention(small.q, small.k_cache, small.v_cache, plan)

    assert plan.items == 2 + buffers.splits
    assert_close(out, small.expected(), torch.bfloat16)


def test_a_plan_follows_lengths_that_change_where_they_lie(device: str) -> None:
    step = decodes(device, [40, 30])
    plan = plan_of(step)
    step.chunks.kv_lengths.copy_(torch.tensor([17, 0]))
    with forced("decode_attention", SMALL):
        plan_decode(step.chunks, step.shape, step.k_cache.dtype, buffers=plan.buffers)

    out = decode_attention(step.q, step.k_cache, step.v_cache, plan)

    assert_close(out, step.expected(), torch.bfloat16)


def test_large_scores_do_not_overflow(device: str) -> None:
    step = decodes(device, [40, 3], dtype=torch.float32)
    step = replace(step, shape=replace(step.shape, scale=1e3))

    assert_close(attend(step), step.expected(), torch.float32)


def test_buffers_of_another_size_are_refused(device: str) -> None:
    buffers = plan_of(decodes(device, [4])).buffers

    for other in (decodes(device, [4, 4]), decodes(device, [4], (2, 2, 32))):
        with pytest.raises(ValueError, match="buffers for 1 sequences"):
            plan_decode(other.chunks, other.shape, other.k_cache.dtype, buffers=buffers)


def test_a_step_without_decodes_is_empty(device: str) -> None:
    step = scene(device, [(3, 5)])
    plan = plan_decode(step.chunks, step.shape, step.k_cache.dtype)

    assert decode_attention(step.q, step.k_cache, step.v_cache, plan).shape == step.q.shape
