"""The words and the noise of a draw have the bits that the CPU finds."""

# ruff: noqa: N803 (constants of a kernel are spelled so)

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from kernels import philox
from kernels.philox import BOUND_MARGIN, Counters
from kernels.triton.sampling.philox import gumbel, gumbel_bounds, tile_words, token_words

EDGES = [0, 1, 2, 3, 2**16, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1]
BIG = 2**32 - 1


@triton.jit
def noise_kernel(words_ptr, noise_ptr, least_ptr, most_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    words = tl.load(words_ptr + at).to(tl.uint32, bitcast=True)
    least, most = gumbel_bounds(words)
    tl.store(noise_ptr + at, gumbel(words))
    tl.store(least_ptr + at, least)
    tl.store(most_ptr + at, most)


@triton.jit
def words_kernel(counter_ptr, first, ids_ptr, tile_ptr, tokens_ptr, N: tl.constexpr):
    seed, position = tl.load(counter_ptr), tl.load(counter_ptr + 1)
    candidate = tl.load(counter_ptr + 2)
    at = tl.arange(0, N)
    tile = tile_words(seed, position, candidate, first, N)
    tokens = token_words(seed, position, candidate, tl.load(ids_ptr + at))
    tl.store(tile_ptr + at, tile.to(tl.int32, bitcast=True))
    tl.store(tokens_ptr + at, tokens.to(tl.int32, bitcast=True))


def as_tensor(words: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(words.view(np.int32)).to(device)


def many_words() -> np.ndarray:
    powers = [2**k + d for k in range(3, 32) for d in (-1, 0, 1)]
    ends = [*range(200), *(2**32 - 1 - np.arange(200))]
    chosen = np.array([*EDGES, *powers, *ends], np.uint64)
    rest = np.random.default_rng(0).integers(0, 2**32, 2**15 - len(chosen), np.uint64)
    return np.concatenate([chosen, rest]).astype(np.uint32)


def noise(device: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    words = as_tensor(many_words(), device)
    found = torch.full(words.shape, torch.nan, dtype=torch.float64, device=device)
    least, most = (torch.full(words.shape, torch.nan, device=device) for _ in range(2))
    noise_kernel[(1,)](words, found, least, most, N=len(words), enable_fp_fusion=False)
    return found.cpu().numpy(), least.cpu().numpy(), most.cpu().numpy()


def test_the_noise_of_every_word_has_the_cpus_bits(device: str) -> None:
    expected = philox.gumbel(many_words())
    assert (noise(device)[0].view(np.int64) == expected.view(np.int64)).all()


def test_the_noise_lies_between_its_bounds_and_they_close_at_the_top(device: str) -> None:
    words, expected = many_words(), philox.gumbel(many_words())
    _, least, most = noise(device)
    assert (expected - least > BOUND_MARGIN / 2).all()
    assert (most - expected > BOUND_MARGIN / 2).all()
    assert ((most - least)[words > 0.99 * 2**32] < 0.02).all()


@pytest.mark.parametrize(
    "counter",
    [(0, 0, 0), (2**64 - 1, BIG, BIG), (0x0123456789ABCDEF, 7, 15), (2**63 + 5, 2**31, 1)],
    ids=str,
)
@pytest.mark.parametrize("first", [0, 4, 151_900])
def test_each_token_has_its_word(device: str, counter: tuple[int, int, int], first: int) -> None:
    size = 64
    ids = np.random.default_rng(1).permutation(size) + first
    seed, position, candidate = (np.array([value], np.uint64) for value in counter)
    expected = philox.row_words(Counters(seed, position, candidate), first + size)[0]
    words = [torch.zeros(size, dtype=torch.int32, device=device) for _ in range(2)]
    words_kernel[(1,)](
        torch.from_numpy(np.array(counter, np.uint64).view(np.int64)).to(device),
        first,
        torch.from_numpy(ids.astype(np.int32)).to(device),
        *words,
        N=size,
    )
    tile, tokens = (found.cpu().numpy().view(np.uint32) for found in words)
    assert tile.tolist() == expected[first:].tolist()
    assert tokens.tolist() == expected[ids].tolist()
