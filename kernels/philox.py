"""The random numbers of a draw: one fixed word, and so one fixed noise, for each token.

Invariant: the word of a token depends on nothing but (seed, output position, candidate,
vocabulary id), and no two of these share one:

- key = (low 32 bits of the seed, high 32 bits of the seed);
- counter = (position, candidate, vocabulary id // 4, 0);
- the word is lane `vocabulary id % 4` of the four words that Philox4x32-10 makes of them.

A call gives four words, so four neighbouring ids share one; each still has a lane to itself.

From word to noise: `u = (word + 1/2) * 2**-32`, which float64 holds exactly and which is never 0
or 1 (in float32 it would round to 1), then `gumbel = -log(-log(u))` in float64 by
`kernels.portable_math`, so that every device can find the same bits. Few tokens of a row need
them: `-log(1 - u)` is never below the noise and single precision suffices to rule the rest out.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels import portable_math

LANES = 4
WORD_BITS = 32
TILE_BLOCKS = 8192
"""Calls of Philox at a time: so many keep its arrays in a core's second-level cache."""
GUMBEL_MAX = (WORD_BITS + 1) * math.log(2.0)
"""No noise is larger, for -log(1 - 2**-33) > 2**-33: a token further behind cannot win."""
BOUND_MARGIN = 1e-3
"""More than all the rounding between float32 bounds and float64 scores of tokens that can win."""

Words = npt.NDArray[np.uint32]
_Wide = npt.NDArray[np.uint64]  # 32-bit values in 64 bits, so that products need no cast

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_WORD_BITS = np.uint64(WORD_BITS)
_WORD_MASK = np.uint64(2**WORD_BITS - 1)
_LOG_RANGE = np.float32(WORD_BITS * math.log(2.0) + BOUND_MARGIN)


@dataclass(frozen=True, slots=True)
class Counters:
    """Seeds and positions that each row of a batch draws with.

    Attributes:
        seeds: [rows] uint64.
        positions: [rows] uint64, below 2**32: the place in the output of the token to draw.
        candidates: [rows] uint64, below 2**32.
    """

    seeds: npt.NDArray[np.uint64]
    positions: npt.NDArray[np.uint64]
    candidates: npt.NDArray[np.uint64]

    def take(self, rows: npt.NDArray[np.intp]) -> Counters:
        """The counters of some rows, in the order asked for."""
        return Counters(self.seeds[rows], self.positions[rows], self.candidates[rows])


def philox4x32(
    counter: tuple[_Wide, _Wide, _Wide, _Wide], key: tuple[_Wide, _Wide]
) -> tuple[_Wide, _Wide, _Wide, _Wide]:
    """Philox4x32-10 of every counter under every key.

    Args:
        counter, key: 32-bit words as uint64 arrays whose shapes broadcast. What is alike for many
            is best given with a length of 1: the first rounds then cost next to nothing.

    Returns:
        Four arrays of 32-bit words as uint64, of the broadcast shape.

    Source: Salmon et al. 2011, section 3.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _WORD_BITS) ^ c1 ^ k0
        c2 = (product0 >> _WORD_BITS) ^ c3 ^ k1
        c1 = product1 & _WORD_MASK
        c3 = product0 & _WORD_MASK
        k0 = (k0 + _KEY_STEPS[0]) & _WORD_MASK
        k1 = (k1 + _KEY_STEPS[1]) & _WORD_MASK
    return c0, c1, c2, c3


def row_words(counters: Counters, vocab_size: int) -> Words:
    """The words of every token of every row.

    Returns:
        [rows, vocab_size] uint32.
    """
    blocks = -(-vocab_size // LANES)
    column = Counters(
        counters.seeds[:, None], counters.positions[:, None], counters.candidates[:, None]
    )
    words = np.empty((len(counters.seeds), blocks, LANES), np.uint32)
    for start in range(0, blocks, TILE_BLOCKS):
        tile = slice(start, min(start + TILE_BLOCKS, blocks))
        lanes = _blocks(column, np.arange(tile.start, tile.stop, dtype=np.uint64)[None])
        for lane in range(LANES):
            words[:, tile, lane] = lanes[lane]
    return words.reshape(-1, blocks * LANES)[:, :vocab_size]


def token_words(counters: Counters, ids: npt.NDArray[np.intp]) -> Words:
    """The word of one token for each of `counters`.

    Args:
        counters: of length n.
        ids: [n], vocabulary ids.

    Returns:
        [n] uint32.
    """
    lanes = np.stack(_blocks(counters, (ids // LANES).astype(np.uint64)))
    words: Words = lanes[ids % LANES, np.arange(len(ids))].astype(np.uint32)
    return words


def gumbel(words: Words) -> npt.NDArray[np.float64]:
    """The standard Gumbel noise of each word: the same bits on every machine."""
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-WORD_BITS
    return -portable_math.log(-portable_math.log(uniform))


def gumbel_bound(words: Words) -> npt.NDArray[np.float32]:
    """An upper bound of the Gumbel noise of each word; cheap.

    It is `-log(1 - u)`, for `-log(u) >= 1 - u`, and a margin for the rounding of float32. Near
    the top of the range, where draws are won, it is close to the noise itself.
    """
    rest = (~words).astype(np.float32)  # (1 - u) * 2**32 - 1/2
    rest += np.float32(0.5)
    return _LOG_RANGE - np.log(rest)


def _blocks(counters: Counters, blocks: _Wide) -> tuple[_Wide, _Wide, _Wide, _Wide]:
    counter = (counters.positions, counters.candidates, blocks, np.zeros_like(blocks[..., :1]))
    return philox4x32(counter, (counters.seeds & _WORD_MASK, counters.seeds >> _WORD_BITS))
