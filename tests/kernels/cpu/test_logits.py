"""Edited logits end at the largest numbers of float32; only a ban makes a token impossible."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu.logits import add_bias, log_probabilities, penalise

INF, NAN = np.inf, np.nan
MOST = np.finfo(np.float32).max
LEAST = float(np.finfo(np.float32).smallest_subnormal)


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("logit", "amount", "sum_"),
    [
        (1.0, 2.5, 3.5),
        (MOST, MOST, MOST),
        (-MOST, -MOST, -MOST),
        (MOST, -MOST, 0.0),
        (MOST, -INF, -INF),
        (-INF, MOST, -INF),
        (INF, -MOST, INF),
    ],
)
def test_a_bias_ends_at_the_largest_number_and_a_ban_at_infinity(
    logit: float, amount: float, sum_: float
) -> None:
    logits = row(0.5, logit)
    add_bias(logits, np.array([1, 2, 2**31]), row(amount, 9.0, 9.0))
    assert logits.tolist() == [0.5, np.float32(sum_)]


def test_a_ban_makes_any_logit_impossible() -> None:
    logits = row(MOST, -MOST, INF, -INF, NAN)
    add_bias(logits, np.arange(5), row(*[-INF] * 5))
    assert not (logits > -INF).any()


@pytest.mark.parametrize(
    ("penalties", "expected"),
    [
        # repetition, presence, frequency; the logits are 2, -2, 0
        ((LEAST, 0.0, 0.0), [MOST, -2 * LEAST, 0.0]),
        ((MOST, 0.0, 0.0), [2 / MOST, -MOST, 0.0]),
        ((1.0, MOST, MOST), [-MOST] * 3),
        ((1.0, -MOST, -MOST), [MOST] * 3),
        ((1.0, MOST, -MOST), [0.0, 0.0, 0.0]),
        ((LEAST, MOST, MOST), [MOST, -MOST, -MOST]),
    ],
)
def test_penalties_beyond_float32_end_at_its_largest_numbers(
    penalties: tuple[float, float, float], expected: list[float]
) -> None:
    logits = row(2.0, -2.0, 0.0)
    penalise(logits, np.arange(3), np.array([3, 3, 3], np.int32), *penalties)
    np.testing.assert_array_equal(logits, np.array(expected, np.float32))


def test_penalties_leave_a_ban_and_what_is_no_number() -> None:
    logits = row(-INF, INF, NAN, 1.0)
    counts = np.array([1, 2, 3, 4], np.int32)
    penalise(logits, np.arange(4), counts, LEAST, -float(MOST), -float(MOST))
    np.testing.assert_array_equal(logits, row(-INF, INF, NAN, MOST))


def test_log_probabilities_of_the_largest_logits_are_told() -> None:
    logits = row(MOST, -MOST, MOST, 0.0)[None]
    chosen, likely = log_probabilities(logits, np.array([0]), [4])
    assert chosen[0] == 0.0  # log 2 is less than float32 tells apart from so large a logit
    assert likely[0][0].tolist() == [0, 2, 3, 1]
    assert likely[0][1].tolist() == [0.0, 0.0, -MOST, -INF]
