from __future__ import annotations

import math

import numpy as np
import pytest

from kernels.portable_math import WEIGHT_BITS, fixed_exp, log


def test_log_agrees_with_the_library_over_the_whole_range() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([random.random(5000), np.exp(random.uniform(-700, 700, 5000))])
    expected = np.array([math.log(value) for value in x])
    assert (np.abs(log(x) - expected) <= 4 * np.spacing(np.abs(expected))).all()


def test_log_keeps_its_precision_next_to_one() -> None:
    distance = 2.0 ** -np.arange(1, 53)
    np.testing.assert_allclose(log(1.0 - distance), np.log1p(-distance), rtol=1e-15)
    assert log(np.array([1.0]))[0] == 0.0


@pytest.mark.parametrize(
    ("x", "bits"),
    [
        (0.1, "-0x1.26bb1bbb55515p+1"),
        (0.7, "-0x1.6d3c324e13f4fp-2"),
        (3.0, "0x1.193ea7aad030ap+0"),
        (1e-10, "-0x1.7069e2aa2aa5ap+4"),
    ],
)
def test_log_has_fixed_bits(x: float, bits: str) -> None:
    assert float(log(np.array([x]))[0]).hex() == bits


def test_exp_agrees_with_the_library() -> None:
    x = -np.random.default_rng(0).uniform(0, 30, 5000).astype(np.float32)
    expected = np.array([math.exp(value) for value in x]) * 2.0**WEIGHT_BITS
    assert (np.abs(fixed_exp(x) - expected) <= expected * 2.0**-19 + 1).all()


def test_exp_is_whole_at_zero_and_nothing_far_below() -> None:
    far = np.array([0.0, -0.0, -24.0, -1e30, -np.inf], np.float32)
    assert fixed_exp(far).tolist() == [2**WEIGHT_BITS, 2**WEIGHT_BITS, 0, 0, 0]


@pytest.mark.parametrize(
    ("x", "units"), [(-0.5, 2605029376), (-1.0, 1580030208), (-10.0, 194991), (-22.0, 1)]
)
def test_exp_has_fixed_bits(x: float, units: int) -> None:
    assert fixed_exp(np.array([x], np.float32))[0] == units
