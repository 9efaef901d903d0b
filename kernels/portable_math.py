"""Logarithm and exponential that give the same bits on every machine.

Library functions differ in the last bit between processors and versions, and one bit can turn a
draw. Invariant: a result is made of comparisons, integer operations and single float additions,
subtractions, multiplications and divisions alone, which IEEE 754 rounds exactly, in the order
written here. A GPU kernel that follows it must switch off contraction to fused multiply-add.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

WEIGHT_BITS = 32
"""`fixed_exp` counts in units of 2**-32."""

_LN2 = math.log(2.0)  # 0x3FE62E42FEFA39EF
_SQRT_HALF = math.sqrt(0.5)  # 0x3FE6A09E667F3BCD
# log((1 + s) / (1 - s)) = s * (2 + 2 s^2 / 3 + 2 s^4 / 5 + ...). With |s| <= 0.1716 the first term
# left out is below 2**-63 of the sum.
_LOG_SERIES = tuple(2.0 / (2 * k + 1) for k in range(11, -1, -1))

_LOG2_E = np.float32(1.0 / _LN2)
# 2^f = sum of (f ln 2)^k / k!. With |f| <= 1/2 the first term left out is below 2**-27.
_EXP2_SERIES = tuple(np.float32(_LN2**k / math.factorial(k)) for k in range(7, -1, -1))
_MANTISSA_BITS = 24


def log(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Natural logarithm, within 4 units of the last place.

    Args:
        x: any shape; positive, finite and normal.
    """
    mantissa, exponent = np.frexp(x)
    below = mantissa < _SQRT_HALF
    mantissa = np.where(below, mantissa + mantissa, mantissa)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.full_like(s, _LOG_SERIES[0])
    for coefficient in _LOG_SERIES[1:]:
        series *= square
        series += coefficient
    result: npt.NDArray[np.float64] = (exponent - below) * _LN2 + s * series
    return result


def fixed_exp(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """`e**x` in whole units of `2**-WEIGHT_BITS`, within 2**-19 of the value or one unit.

    Sums of whole numbers do not depend on their order, so neither a batch nor a parallel
    reduction can change which tokens they keep; below 2**20 summands float64 holds them too.
    What is below one unit is zero.

    Args:
        x: any shape; at most 0, -inf allowed.
    """
    with np.errstate(over="ignore"):  # what overflows is below one unit
        exponent = np.maximum(x * _LOG2_E, np.float32(-WEIGHT_BITS - 2))
    whole = np.floor(exponent + np.float32(0.5))
    fraction = exponent - whole
    power = np.full_like(fraction, _EXP2_SERIES[0])
    for coefficient in _EXP2_SERIES[1:]:
        power *= fraction
        power += coefficient
    power *= np.float32(2**_MANTISSA_BITS)
    units: npt.NDArray[np.int64] = power.astype(np.int64) << (WEIGHT_BITS - _MANTISSA_BITS)
    units >>= (-whole).astype(np.int64)
    return units
