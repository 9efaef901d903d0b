"""Draw one token per row of logits, by Gumbel-max over what the filters leave.

A row's token is the one with the largest `scaled + gumbel(word)` in float64, the lowest id among
equals, where `scaled = (logits - maximum) / temperature` in float32. Invariants: a row's token
depends on that row alone; and noise is computed only where a bound cannot rule the token out.

Odd logits: NaN counts as -inf. Where a row holds +inf, only the tokens at +inf can be drawn, all
equally likely. A row with nothing but -inf gives id 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kernels.cpu.filters import Filters, Indices, Scaled, kept_tokens
from kernels.philox import (
    BOUND_MARGIN,
    GUMBEL_MAX,
    LANES,
    TILE_BLOCKS,
    Counters,
    Words,
    gumbel,
    gumbel_bound,
    row_words,
    token_words,
)

_SPARSE_SHARE = 16  # a word alone costs about this many times its cost within a whole row
_WORTH_SPLITTING = 2**15  # tokens; noise for a smaller vocabulary costs less than to look for less

_Contenders = tuple[Indices, Indices, Words]  # rows, ids and words, one of each per token


def argmax(logits: npt.NDArray[np.float32]) -> Indices:
    """The id of each row's largest logit, the lowest among equals.

    Args:
        logits: [rows, vocab] float32.
    """
    best: Indices = logits.argmax(axis=1)
    for row in np.flatnonzero(np.isnan(logits[np.arange(len(best)), best])):
        best[row] = np.where(np.isnan(logits[row]), -np.inf, logits[row]).argmax()
    return best


def draw(
    logits: npt.NDArray[np.float32],
    temperatures: npt.NDArray[np.float32],
    counters: Counters,
    filters: Filters,
) -> Indices:
    """Draw a token for each row.

    Args:
        logits: [rows, vocab] float32, with bias and penalties; overwritten.
        temperatures: [rows] float32, above 0.
        counters: what each row draws with.
        filters: what each row may draw.

    Returns:
        [rows], vocabulary ids.
    """
    scaled = _scale(logits, temperatures)
    active = filters.active(scaled.shape[1])
    filtered, free = np.flatnonzero(active), np.flatnonzero(~active)
    possible: list[Indices | None] = [None] * len(scaled)
    if len(filtered):
        kept = kept_tokens([scaled[row] for row in filtered], filters.take(filtered))
        for row, ids in zip(filtered, kept, strict=True):
            possible[row] = _few_or_masked(scaled[row], ids)
    if len(free) and scaled.shape[1] >= _WORTH_SPLITTING:
        best = scaled.argmax(axis=1)[free]
        floors = gumbel(token_words(counters.take(free), best)) - (GUMBEL_MAX + BOUND_MARGIN)
        for row, floor in zip(free, floors.astype(np.float32), strict=True):
            possible[row] = _few_above(scaled[row], floor)
    contenders = list(_dense_contenders(scaled, possible, counters))
    contenders.extend(_sparse_contenders(possible, counters))
    return _winners(scaled, contenders)


def _scale(logits: npt.NDArray[np.float32], temperatures: npt.NDArray[np.float32]) -> Scaled:
    """`(logits - maximum) / temperature`, in place; every row's maximum becomes exactly 0."""
    # Overflow goes towards -inf, which is what far below the maximum means.
    with np.errstate(over="ignore", invalid="ignore"):
        top = logits.max(axis=1)
        for row in np.flatnonzero(~np.isfinite(top)):
            logits[row] = _finite_top(logits[row])
            top[row] = 0.0
        logits -= top[:, None]
        logits /= temperatures[:, None]
    return logits


def _finite_top(row: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    row = np.where(np.isnan(row), np.float32(-np.inf), row)
    top = row.max()
    if np.isfinite(top):
        row -= top
        return row
    allowed = row == np.inf if top == np.inf else np.arange(len(row)) == 0
    return np.where(allowed, np.float32(0.0), np.float32(-np.inf))


def _few_or_masked(row: Scaled, ids: Indices) -> Indices | None:
    """`ids` if few; else None, and the rest of the row is made impossible in place."""
    if len(ids) <= len(row) // _SPARSE_SHARE:
        return ids
    values = row[ids]
    row.fill(-np.inf)
    row[ids] = values
    return None


def _few_above(row: Scaled, floor: np.float32) -> Indices | None:
    """The ids of the tokens that can reach the score of the likeliest, or None for many."""
    above = row >= floor
    few = np.count_nonzero(above) <= len(row) // _SPARSE_SHARE
    return np.flatnonzero(above) if few else None


def _sparse_contenders(possible: list[Indices | None], counters: Counters) -> Iterator[_Contenders]:
    """The tokens of the rows in which few can win."""
    found = [(row, ids) for row, ids in enumerate(possible) if ids is not None]
    if found:
        owners = np.repeat([row for row, _ in found], [len(ids) for _, ids in found])
        ids = np.concatenate([ids for _, ids in found])
        yield owners, ids, token_words(counters.take(owners), ids)


def _dense_contenders(
    scaled: Scaled, possible: list[Indices | None], counters: Counters
) -> Iterator[_Contenders]:
    """The tokens of the other rows that a cheap bound does not rule out, tile by tile."""
    rows = np.array([row for row, ids in enumerate(possible) if ids is None], np.intp)
    vocab_size = scaled.shape[1]
    step = max(1, TILE_BLOCKS * LANES // vocab_size)
    for start in range(0, len(rows), step):
        tile = rows[start : start + step]
        words = row_words(counters.take(tile), vocab_size)
        bounds = gumbel_bound(words)
        bounds += scaled[tile]
        every = np.arange(len(tile))
        hopeful = bounds.argmax(axis=1)
        reached = scaled[tile, hopeful] + gumbel(words[every, hopeful])
        hits = np.flatnonzero(bounds >= reached.astype(np.float32)[:, None])
        owners, ids = np.divmod(hits, vocab_size)
        yield tile[owners], ids, words[owners, ids]


def _winners(scaled: Scaled, contenders: list[_Contenders]) -> Indices:
    """The token with the best score in each row."""
    rows, ids, words = (np.concatenate(parts) for parts in zip(*contenders, strict=True))
    scores = scaled[rows, ids] + gumbel(words)
    order = np.lexsort((ids, -scores, rows))
    winners: Indices = ids[order[np.searchsorted(rows[order], np.arange(len(scaled)))]]
    return winners
