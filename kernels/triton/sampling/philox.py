"""The random words and the noise of `kernels.philox`, as device functions.

Invariant: a token's word, and the noise made of it, have the same bits as there. So a kernel that
calls `gumbel` has to be launched with `enable_fp_fusion=False`.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import math

import triton
import triton.language as tl

from kernels.philox import BOUND_MARGIN
from kernels.triton.sampling.portable_math import log

_MARGIN = tl.constexpr(BOUND_MARGIN)
_LN2 = tl.constexpr(math.log(2.0))
_LOG_WORDS = tl.constexpr(32 * math.log(2.0))
# log2(1 + m) - m vanishes at both ends: m (1 - m) (C0 + C1 m + C2 m^2), fitted to within 1.2e-4.
_C0, _C1, _C2 = tl.constexpr(0.43872573), tl.constexpr(-0.23905819), tl.constexpr(0.08213064)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """The four words that Philox4x32-10 makes of a counter and a key, all of them uint32.

    What is alike for many is best given as a scalar: the first rounds then cost next to nothing.
    """
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high1, low1 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def _four_words(seed, position, candidate, blocks):
    k0, k1 = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    c0, c1 = position.to(tl.uint32), candidate.to(tl.uint32)
    return philox4x32(c0, c1, blocks.to(tl.uint32), tl.zeros_like(c0), k0, k1)


@triton.jit
def tile_words(seed, position, candidate, first, TILE: tl.constexpr):
    """The words of the ids from `first`, a multiple of 4, as uint32 [TILE].

    Args:
        seed: int64 scalar, its bits unsigned.
        position, candidate: integer scalars.
    """
    blocks = first // 4 + tl.arange(0, TILE // 4)
    w0, w1, w2, w3 = _four_words(seed, position, candidate, blocks)
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def token_words(seed, position, candidate, ids):
    """The word of each of `ids`."""
    w0, w1, w2, w3 = _four_words(seed, position, candidate, ids // 4)
    lane = ids % 4
    return tl.where(lane < 2, tl.where(lane == 0, w0, w1), tl.where(lane == 2, w2, w3))


@triton.jit
def gumbel(words):
    """The noise of each word, float64."""
    uniform = (words.to(tl.float64) + 0.5) * 2.0**-32
    return -log(-log(uniform))


@triton.jit
def gumbel_bounds(words):
    """Lower and upper bounds of the noise of each word; float32, and cheap.

    The noise is `-log(-log(u))`, and `1 - u <= -log(u) <= (1 - u) / u`. Near the top of the range,
    where draws are won, the bounds lie close together.
    """
    # u and 1 - u in units of 2**-32.
    share = words.to(tl.float32) + 0.5
    rest = (words ^ 0xFFFFFFFF).to(tl.float32) + 0.5
    bound = -_rough_log(rest) + _LOG_WORDS
    return bound - rest / share - _MARGIN, bound + _MARGIN


@triton.jit
def _rough_log(x):
    """Logarithm of a normal, positive float32, within 1e-4; a library's is three times as dear."""
    bits = x.to(tl.int32, bitcast=True)
    m = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True) - 1.0
    curve = tl.fma(tl.fma(m, _C2, _C1), m, _C0)
    log2 = tl.fma(tl.fma(m, -m, m), curve, bits.to(tl.float32) * 2.0**-23 - 127.0)
    return log2 * _LN2
