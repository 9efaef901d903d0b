"""Change rows of logits as a request asks, and read log-probabilities off them.

Invariants: what is read or changed of a row depends on that row alone; work is in proportion to
the tokens changed, and one pass over a row whose log-probabilities are read.

A finite logit stays finite, whatever finite numbers are added to it or multiplied by it: beyond
float32 it becomes the largest number of its sign. Only a bias of -inf makes a token impossible, so
no sum of other edits can make it look banned. Infinite and NaN logits stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from kernels.cpu.filters import likeliest

Row = npt.NDArray[np.float32]
Alternatives = tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]

_LARGEST = np.finfo(np.float32).max


def add_bias(row: Row, ids: npt.NDArray[np.integer], amounts: Row) -> None:
    """Add to the logits of some tokens, in place and in float32.

    Args:
        row: [vocab] float32 logits.
        ids: [n], distinct; those outside the vocabulary mean nothing.
        amounts: [n] float32, finite or -inf; -inf bans its token.
    """
    known = ids < len(row)
    ids, amounts = ids[known], amounts[known]
    values = row[ids]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = values + amounts
    if np.count_nonzero(np.isfinite(sums)) < len(sums):
        finite = np.isfinite(values) & np.isfinite(amounts)
        sums = np.where(finite, _saturate(sums), sums)
    row[ids] = sums


def penalise(
    row: Row,
    ids: npt.NDArray[np.integer],
    counts: npt.NDArray[np.int32],
    repetition: float,
    presence: float,
    frequency: float,
) -> None:
    """Make tokens that have occurred less likely, in place and in float32.

    Args:
        row: [vocab] float32 logits.
        ids: [n], distinct ids of the prompt and the output.
        counts: [n], how often each occurs in the output.
        repetition: divides a logit above 0 and multiplies others; for all of `ids`.
        presence: is subtracted where the output has the token.
        frequency: is subtracted once for every time that the output has it.

    Source: Keskar et al. 2019 (CTRL), section 4.1, for `repetition`.
    """
    raw = values = row[ids]
    with np.errstate(over="ignore", invalid="ignore"):
        if repetition != 1.0:
            factor = np.float32(repetition)
            values = np.where(values > 0, values / factor, values * factor)
        if frequency != 0.0:
            # Finite, lest infinity less infinity be NaN.
            values = values - _saturate(np.float32(frequency) * counts.astype(np.float32))
        if presence != 0.0:
            values = values - np.float32(presence) * (counts > 0).astype(np.float32)
    if np.count_nonzero(np.isfinite(values)) < len(values):
        values = np.where(np.isfinite(raw), _saturate(values), raw)
    row[ids] = values


def _saturate(values: Row) -> Row:
    """`values` with infinities replaced by the largest numbers of float32."""
    result: Row = np.minimum(np.maximum(values, -_LARGEST), _LARGEST)
    return result


def log_probabilities(
    logits: npt.NDArray[np.float32],
    tokens: npt.NDArray[np.intp] | npt.NDArray[np.int32],
    alternatives: Sequence[int],
) -> tuple[npt.NDArray[np.float32], list[Alternatives]]:
    """The log-probability of one token of each row, and of each row's likeliest tokens.

    Args:
        logits: [rows, vocab] float32.
        tokens: [rows], vocabulary ids.
        alternatives: [rows], number of the likeliest tokens wanted.

    Returns:
        [rows] float32, NaN where a row's logits make no distribution; and for each row ids and
        log-probabilities, likeliest first, the lower id first among equals.
    """
    chosen = np.empty(len(tokens), np.float32)
    likely = []
    # Infinite or NaN logits give NaN, which is the answer; further below the likeliest than
    # float32 reaches is -inf.
    with np.errstate(over="ignore", invalid="ignore"):
        for i, row in enumerate(logits):
            normaliser = _log_sum_exp(row)
            chosen[i] = row[tokens[i]] - normaliser
            ids = np.empty(0, np.intp)
            if alternatives[i]:
                ids = likeliest(np.where(np.isnan(row), np.float32(-np.inf), row), alternatives[i])
            likely.append((ids, (row[ids] - normaliser).astype(np.float32)))
    return chosen, likely


def _log_sum_exp(row: Row) -> np.float64:
    top = row.max()
    result: np.float64 = np.log(np.exp(row - top).sum(dtype=np.float64)) + top
    return result
