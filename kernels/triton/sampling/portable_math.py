"""The logarithm and the exponential of `kernels.portable_math`, as device functions.

Invariant: the same operations in the same order as there, so the same bits. A kernel that calls
them has to be launched with `enable_fp_fusion=False`: one rounding less is another result.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import math

import triton
import triton.language as tl

from kernels.portable_math import WEIGHT_BITS

_LN2 = tl.constexpr(math.log(2.0))
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_LOG2_E = tl.constexpr(1.0 / math.log(2.0))
_EXP2_SERIES = tl.constexpr(tuple(math.log(2.0) ** k / math.factorial(k) for k in range(7, -1, -1)))
_LOWEST = tl.constexpr(-WEIGHT_BITS - 2)
_SHIFT = tl.constexpr(WEIGHT_BITS - 24)


@triton.jit
def log(x):
    """Natural logarithm of float64, positive, finite and normal."""
    bits = x.to(tl.int64, bitcast=True)
    exponent = (bits >> 52) - 1022
    mantissa = ((bits & 0xFFFFFFFFFFFFF) | 0x3FE0000000000000).to(tl.float64, bitcast=True)
    below = mantissa < _SQRT_HALF
    mantissa = tl.where(below, mantissa + mantissa, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = tl.full(s.shape, 2.0 / 23, tl.float64)
    for k in tl.static_range(10, -1, -1):
        series = series * square + 2.0 / (2 * k + 1)
    return (exponent - below.to(tl.int64)).to(tl.float64) * _LN2 + s * series


@triton.jit
def fixed_exp(x):
    """`e**x` of float32, at most 0, in whole units of 2**-32; int64."""
    exponent = tl.maximum(x * _LOG2_E, _LOWEST)
    whole = tl.floor(exponent + 0.5)
    fraction = exponent - whole
    power = tl.full(x.shape, _EXP2_SERIES[0], tl.float32)
    for k in tl.static_range(1, 8):
        power = power * fraction + _EXP2_SERIES[k]
    units = (power * 2.0**24).to(tl.int32).to(tl.int64) << _SHIFT
    return units >> (-whole).to(tl.int64)
