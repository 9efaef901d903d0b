"""Prompt chunks against the oracle, on ragged chunks whose free slots are NaN."""

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
from kernels.triton.attention.prefill import plan_prefill, prefill_attention
from kernels.triton.configs import Config, forced

BLOCK_N = 16
SMALL = Config({"BLOCK_M": 32, "BLOCK_N": BLOCK_N}, num_warps=4, num_stages=2)
# Around a block of keys and a tile of 16 tokens, with and without a prefix, one of them empty.
RAGGED = [(1, 1), (15, 15), (16, 16), (17, 17), (1, 16), (3, 47), (0, 0), (33, 50), (2, 17)]


def attend(
    step: Scene, options: AttentionOptions = PLAIN, spare: int = 0, tile: Config = SMALL
) -> torch.Tensor:
    with forced("prefill_attention", tile):
        tokens = step.q.shape[0] + spare
        plan = plan_prefill(step.chunks, tokens, step.shape, step.k_cache.dtype, options)
    return prefill_attention(step.q, step.k_cache, step.v_cache, plan, step.scales)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_ragged_chunks_match_the_oracle(device: str, dtype: torch.dtype) -> None:
    step = scene(device, RAGGED, dtype=dtype)

    assert_close(attend(step), step.expected(), dtype)


@pytest.mark.parametrize(
    "heads", [(2, 2, 32), (3, 1, 64), (14, 2, 80), (4, 4, 96), (5, 1, 128), (2, 1, 256)]
)
def test_any_group_and_head_dim_matches_the_oracle(
    device: str, heads: tuple[int, int, int]
) -> None:
    step = scene(device, [(7, 7), (20, 35)], heads)

    assert_close(attend(step), step.expected(), torch.bfloat16)


@pytest.mark.parametrize(
    "names",
    ["alibi", "window", "soft_cap", "sinks", "window+sinks", "alibi+window+soft_cap+sinks"],
)
def test_options_match_the_oracle(device: str, names: str) -> None:
    step = scene(device, RAGGED)
    options = options_of(device, 4, names)

    assert_close(attend(step, options), step.expected(options), torch.bfloat16)


@pytest.mark.parametrize("window", [1, BLOCK_N - 1, BLOCK_N, BLOCK_N + 1, 1000])
def test_a_window_of_any_size_matches_the_oracle(device: str, window: int) -> None:
    step = scene(device, [(40, 75), (33, 33)])
    options = AttentionOptions(window=window)

    assert_close(attend(step, options), step.expected(options), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("names", ["plain", "alibi+window+soft_cap+sinks"])
def test_int8_caches_are_dequantised_as_they_are_read(
    device: str, dtype: torch.dtype, names: str
) -> None:
    exact = scene(device, RAGGED, dtype=dtype)
    options = options_of(device, 4, names)
    step = quantised(exact)

    out = attend(step, options)

    assert_close(out, step.expected(options), dtype)
    assert relative_error(out, exact.expected(options)) < INT8_TOLERANCE


def test_values_of_very_different_size_survive_int8_beside_float16_queries(device: str) -> None:
    exact = scene(device, [(20, 40)], dtype=torch.float16)
    exact.v_cache[::2] *= 1e-3
    step = quantised(replace(exact, v_cache=exact.v_cache * 2e-2))

    assert relative_error(attend(step), step.expected()) < INT8_TOLERANCE


def test_the_default_tile_matches_the_oracle(device: str) -> None:
    step = scene(device, [(65, 130), (64, 64), (1, 63)], (8, 2, 128))
    plan = plan_prefill(step.chunks, 130, step.shape, step.k_cache.dtype)

    out = prefill_attention(step.q, step.k_cache, step.v_cache, plan)

    assert_close(out, step.expected(), torch.bfloat16)


def test_decodes_are_left_to_their_own_kernel(device: str) -> None:
    step = scene(device, [(1, 5), (1, 9), (20, 30), (3, 3)], num_decodes=2)
    out = torch.full_like(step.q, 7.0, memory_format=torch.contiguous_format)
    plan = plan_prefill(step.chunks, 23, step.shape, step.k_cache.dtype)

    prefill_attention(step.q, step.k_cache, step.v_cache, plan, out=out)

    assert (out[:2] == 7).all()
    assert_close(out[2:], step.expected()[2:], torch.bfloat16)


def test_more_programs_than_tiles_write_nothing(device: str) -> None:
    step = scene(device, [(20, 30), (3, 3)])

    assert torch.equal(attend(step), attend(step, spare=500))


def test_many_chunks_are_all_found(device: str) -> None:
    step = scene(device, [(1 + i % 2, 1 + i % 3 + i % 2) for i in range(260)], (1, 1, 16))

    assert_close(attend(step), step.expected(), torch.bfloat16)


def test_a_step_without_chunks_is_empty(device: str) -> None:
    step = scene(device, [(1, 5)], num_decodes=1)
    plan = plan_prefill(step.chunks, 0, step.shape, step.k_cache.dtype)

    assert prefill_attention(step.q, step.k_cache, step.v_cache, plan).shape == step.q.shape
    assert plan.tiles.shape == (4, 0)


def test_large_scores_do_not_overflow(device: str) -> None:
    step = scene(device, [(18, 40)], dtype=torch.float32)
    step = replace(step, shape=replace(step.shape, scale=1e3))

    assert_close(attend(step), step.expected(), torch.float32)


def test_caches_that_differ_are_refused(device: str) -> None:
    step = scene(device, [(1, 5)])

    with pytest.raises(ValueError, match="expected the same"):
        attend(replace(step, v_cache=step.v_cache.contiguous()))
    with pytest.raises(ValueError, match="expected rows to be contiguous"):
        attend(
            replace(step, k_cache=(wide := step.k_cache.repeat(1, 1, 2)[..., ::2]), v_cache=wide)
        )
    with pytest.raises(ValueError, match=r"caches of torch\.int8"):
        attend(replace(quantised(step), scales=None))
    with pytest.raises(ValueError, match=r"q \(1, 3, 32\)"):
        attend(replace(step, q=step.q[:, 1:]))
    with pytest.raises(ValueError, match=r"sinks \(3,\)"):
        attend(step, AttentionOptions(sinks=torch.zeros(3)))


def test_a_tile_grows_until_it_holds_a_token_of_every_head(device: str) -> None:
    step = scene(device, [(3, 5)], (33, 1, 16))

    assert_close(attend(step), step.expected(), torch.bfloat16)
