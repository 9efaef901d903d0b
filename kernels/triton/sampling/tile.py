"""A tile of one row's logits: loading, scaling, ranking and putting tokens on the shortlist.

Device functions. Invariant: scaled logits have the bits that `kernels.cpu.sampling` finds.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton.sampling.philox import gumbel_bounds, tile_words
from kernels.triton.sampling.scratch import BINS, GROUP

SMALLEST_TEMPERATURE = tl.constexpr(2.0**-126)
INF = tl.constexpr(float("inf"))
NUM_BINS = tl.constexpr(BINS)
GROUP_TOKENS = tl.constexpr(GROUP)
NO_ID = tl.constexpr(2**31 - 1)
HIGHEST_KEY = tl.constexpr(2**31 - 1)
KEY_LEVELS = tl.constexpr(11)  # keys have 31 bits; a search finds three at a time

_BIN_ORIGIN = tl.constexpr(0x3F800000)  # 1.0
_BIN_SHIFT = tl.constexpr(23 - 8)


@triton.jit
def load_logits(raw_ptr, stride, edited, row, ids, vocab_size):
    """The logits of `ids` as float32, edited if the row is; -inf for NaN and past the end."""
    row = row.to(tl.int64)
    inside = ids < vocab_size
    if edited is not None:
        if tl.load(edited.rows + row) != 0:
            values = tl.load(edited.logits + row * vocab_size + ids, mask=inside, other=-INF)
        else:
            values = tl.load(raw_ptr + row * stride + ids, mask=inside, other=-INF).to(tl.float32)
    else:
        values = tl.load(raw_ptr + row * stride + ids, mask=inside, other=-INF).to(tl.float32)
    return tl.where(values == values, values, -INF)


@triton.jit
def row_top(maxima, row, tiles, TILES: tl.constexpr):
    """The largest logit of a row, and the lowest id that has it."""
    tile = tl.arange(0, TILES)
    at = row * tiles + tile
    values = tl.load(maxima.logits + at, mask=tile < tiles, other=-INF)
    ids = tl.load(maxima.ids + at, mask=tile < tiles, other=NO_ID)
    top = tl.max(values)
    return top, tl.min(tl.where(values == top, ids, NO_ID))


@triton.jit
def scale(values, top, temperature):
    """`(values - top) / temperature`; where `top` is infinite, 0 for the values at it."""
    infinite = tl.abs(top) == INF
    # A finite stand-in: infinity less infinity would be NaN.
    distance = values - tl.where(infinite, 0.0, top)
    return tl.where(infinite, tl.where(values == top, 0.0, -INF), tl.div_rn(distance, temperature))


@triton.jit
def keys(scaled):
    """Integers in the order of likelihood, 0 for the likeliest; equal for equal logits."""
    return tl.abs(scaled).to(tl.int32, bitcast=True)


@triton.jit
def level_width(level):
    """Number of keys in each of eight ranges at one level of a search, coarsest first."""
    return tl.full((), 1, tl.int32) << tl.maximum(3 * (KEY_LEVELS - 2 - level) + 1, 0)


@triton.jit
def bins(scaled, temperature):
    """The range that each token is in, likeliest first: 256 of 1/256, then 256 of 1/128, …

    Of distances of logits, so that a high temperature does not crowd all tokens into a few; but
    of scaled logits again made to distances, so that equally likely tokens share a bin.
    """
    bits = (tl.abs(scaled) * temperature + 1.0).to(tl.int32, bitcast=True)
    return tl.minimum((bits - _BIN_ORIGIN) >> _BIN_SHIFT, NUM_BINS - 1)


@triton.jit
def limits(choices, row, vocab_size):
    """Flags of a row: it has top-k, a small one, top-p, any filter."""
    top_k = tl.load(choices.top_k + row)
    limited = (top_k > 0) & (top_k < vocab_size)
    small = limited & (top_k <= vocab_size // GROUP_TOKENS)
    nucleus = tl.load(choices.top_p + row) < 1.0
    filtered = limited | nucleus | (tl.load(choices.floors + row) > -INF)
    return limited, small, nucleus, filtered


@triton.jit
def contenders(scaled, possible, choices, row, first, BLOCK: tl.constexpr):
    """Mask of a tile's `possible` tokens that may have its best score, scaled logit and noise."""
    seed = tl.load(choices.seeds + row)
    position = tl.load(choices.positions + row)
    candidate = tl.load(choices.candidates + row)
    least, most = gumbel_bounds(tile_words(seed, position, candidate, first, BLOCK))
    reached = tl.max(tl.where(possible, scaled + least, -INF))
    return possible & (scaled + most >= reached)


@triton.jit
def shorten(shortlist, row, ids, values, chosen, vocab_size):
    """Put the `chosen` tokens of a tile on the shortlist of a row."""
    count = tl.sum(chosen.to(tl.int32))
    if count > 0:
        first = tl.atomic_add(shortlist.lengths + row, count, sem="relaxed")
        at = row.to(tl.int64) * vocab_size + first + tl.cumsum(chosen.to(tl.int32)) - 1
        tl.store(shortlist.ids + at, ids, mask=chosen)
        tl.store(shortlist.logits + at, values, mask=chosen)
