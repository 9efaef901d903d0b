"""Find the tokens that top-k, top-p and min-p leave of a row.

Order: top-k, then top-p over what top-k left, then min-p. Tokens are taken likeliest first, the
lower id first where two are equally likely, so what is kept is exact also among ties. Invariant:
what is kept of a row depends on that row alone, and the likeliest token is always kept. Only
top-p without top-k sorts a row, and then its values, without their ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.portable_math import fixed_exp, log

Indices = npt.NDArray[np.intp]
Scaled = npt.NDArray[np.float32]

_NARROW = 1024  # up to this top-k, the likeliest tokens of many rows are weighed together


@dataclass(frozen=True, slots=True)
class Filters:
    """Limits on the tokens that each row may draw.

    Attributes:
        top_k: [rows] int64, 0 for no limit.
        top_p: [rows] float64 in (0, 1], 1 for no limit.
        min_p: [rows] float64 in [0, 1], 0 for no limit.
    """

    top_k: npt.NDArray[np.int64]
    top_p: npt.NDArray[np.float64]
    min_p: npt.NDArray[np.float64]

    def take(self, rows: Indices) -> Filters:
        """The filters of some rows, in the order asked for."""
        return Filters(self.top_k[rows], self.top_p[rows], self.min_p[rows])

    def active(self, vocab_size: int) -> npt.NDArray[np.bool_]:
        """Rows that have any limit."""
        limited = (self.top_k > 0) & (self.top_k < vocab_size)
        result: npt.NDArray[np.bool_] = limited | (self.top_p < 1.0) | (self.min_p > 0.0)
        return result


def kept_tokens(rows: list[Scaled], filters: Filters) -> list[Indices]:
    """The tokens that each row may still draw.

    Args:
        rows: of [vocab] float32, `(logits - maximum) / temperature`.
        filters: of as many rows.

    Returns:
        For each row its vocabulary ids, ascending.
    """
    vocab_size = len(rows[0])
    counts = np.where(filters.top_k > 0, np.minimum(filters.top_k, vocab_size), vocab_size)
    floors = np.full(len(rows), -np.inf, np.float32)
    for i in np.flatnonzero((counts < vocab_size) & (filters.top_p >= 1.0)):
        floors[i] = _largest(rows[i], counts[i])
    _apply_top_p(rows, filters.top_p, counts, floors)
    limited = filters.min_p > 0.0
    # The likeliest token stands at 0, so a share of its probability is a distance below it.
    distances = log(filters.min_p[limited]).astype(np.float32)
    floors[limited] = np.maximum(floors[limited], distances)
    return [
        _from_floor(row, floor, count)
        for row, floor, count in zip(rows, floors, counts, strict=True)
    ]


def likeliest(row: Scaled, count: int) -> Indices:
    """The `count` ids with the largest values, largest first, lower id first among equals.

    Args:
        row: [vocab] float32, without NaN.
        count: at least 1; more than the vocabulary means all of it.
    """
    ids = np.flatnonzero(row >= _largest(row, count))
    return ids[np.argsort(-row[ids], kind="stable")[:count]]


def _largest(row: Scaled, count: int) -> np.float32:
    """The `count`-th largest value of `row`."""
    index = max(len(row) - count, 0)
    value: np.float32 = np.partition(row, index)[index]
    return value


def _from_floor(row: Scaled, floor: np.float32, count: int) -> Indices:
    """The ids of values not below `floor`; beyond `count`, the last of those equal to it go."""
    ids = np.flatnonzero(row >= floor)
    excess = len(ids) - count
    if excess > 0:
        ids = np.delete(ids, np.flatnonzero(row[ids] == floor)[-excess:])
    return ids


def _apply_top_p(
    rows: list[Scaled],
    top_p: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    floors: Scaled,
) -> None:
    """Lower `counts` to the size of the top-p sets and set `floors` to their last values."""
    limited = top_p < 1.0
    narrow = np.flatnonzero(limited & (counts <= _NARROW))
    wide = np.flatnonzero(limited & (counts > _NARROW))
    for group in (narrow, *wide[:, None]):
        if not len(group):
            continue
        prefixes = np.full((len(group), counts[group].max()), -np.inf, np.float32)
        for prefix, i in zip(prefixes, group, strict=True):
            prefix[: counts[i]] = _descending(rows[i], counts[i])
        sizes = np.minimum(_nucleus_sizes(prefixes, top_p[group]), counts[group])
        floors[group] = prefixes[np.arange(len(group)), sizes - 1]
        counts[group] = sizes


def _descending(row: Scaled, count: int) -> Scaled:
    """The `count` largest values of `row`, largest first."""
    index = len(row) - count
    values = np.partition(row, index)[index:] if index else row.copy()
    values.sort()
    return values[::-1]


def _nucleus_sizes(prefixes: Scaled, top_p: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Count of the likeliest tokens whose probability together reaches `top_p`.

    Args:
        prefixes: [rows, width], all tokens that count, likeliest first, then -inf.
        top_p: [rows].
    """
    reached = np.cumsum(fixed_exp(prefixes), axis=1)
    wanted = top_p * reached[:, -1]
    sizes: npt.NDArray[np.int64] = (reached < wanted[:, None]).sum(axis=1) + 1
    return sizes
