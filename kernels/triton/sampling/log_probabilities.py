"""Reads log-probabilities off raw logits: of one token of each row, and of its likeliest ones.

Every tile finds its own likeliest tokens, so the work does not depend on how the logits lie.
Invariant: the order of equal logits, lowest id first, is exact; log-probabilities are close.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.sampling.portable_math import log

ALTERNATIVES = 32
"""Most of a row's likeliest tokens that can be asked for."""

_LISTED = tl.constexpr(ALTERNATIVES)
_INF = tl.constexpr(float("inf"))
_NONE = tl.constexpr(-(2**63))
_ID_MASK = tl.constexpr(2**31 - 1)


class LogProbabilities(NamedTuple):
    """Results of each row."""

    chosen: torch.Tensor
    """[rows] float32; NaN where not asked for, and where a row's logits make no distribution."""
    ids: torch.Tensor
    """[rows, ALTERNATIVES] int32, likeliest first, the lowest id among equals; then -1."""
    likely: torch.Tensor
    """[rows, ALTERNATIVES] float32, those of `ids`; then NaN."""

    @classmethod
    def allocate(cls, rows: int, device: torch.device | str) -> LogProbabilities:
        """Make room for `rows` rows."""
        shape = (rows, ALTERNATIVES)
        return cls(
            torch.empty(rows, dtype=torch.float32, device=device),
            torch.empty(shape, dtype=torch.int32, device=device),
            torch.empty(shape, dtype=torch.float32, device=device),
        )


class Partials(NamedTuple):
    """Partial results of each tile of each row."""

    tops: torch.Tensor
    """[rows, tiles] float32: its largest logit."""
    sums: torch.Tensor
    """[rows, tiles] float32: of exponentials of what logits are below it."""
    likely: torch.Tensor
    """[rows, tiles, ALTERNATIVES] int64: logit and id of its likeliest tokens, packed."""

    @classmethod
    def allocate(cls, rows: int, vocab_size: int, device: torch.device | str) -> Partials:
        """Make room for `rows` rows."""
        block = choose("log_probabilities", vocab=vocab_size).tiles["BLOCK"]
        tiles = triton.cdiv(vocab_size, block)
        return cls(
            torch.empty((rows, tiles), dtype=torch.float32, device=device),
            torch.empty((rows, tiles), dtype=torch.float32, device=device),
            torch.empty((rows, tiles, ALTERNATIVES), dtype=torch.int64, device=device),
        )


def log_probabilities(
    logits: torch.Tensor,
    tokens: torch.Tensor,
    alternatives: torch.Tensor,
    partials: Partials,
    out: LogProbabilities,
) -> None:
    """Compute the log-probability of one token of each row, and of each row's likeliest tokens.

    Args:
        logits: [rows, vocab] bfloat16, float16 or float32, its last stride 1.
        tokens: [rows] int32.
        alternatives: [rows] int32, number of the likeliest wanted, up to `ALTERNATIVES`; -1
            for a row that is asked for nothing, which costs nothing.
        partials: for at least so many rows of this vocabulary.
        out: of so many rows, written.

    Raises:
        ValueError: shapes or strides disagree.
    """
    rows, vocab_size = logits.shape
    config = choose("log_probabilities", vocab=vocab_size)
    tiles = triton.cdiv(vocab_size, config.tiles["BLOCK"])
    if logits.stride(1) != 1 or partials.tops.shape[0] < rows or partials.tops.shape[1] != tiles:
        raise ValueError(
            f"logits {tuple(logits.shape)} by {logits.stride()}, room for rows and tiles "
            f"{tuple(partials.tops.shape)}: expected at least [{rows}, {tiles}]"
        )
    if not (tokens.shape == alternatives.shape == out.chosen.shape == (rows,)):
        raise ValueError(
            f"tokens {tuple(tokens.shape)}, alternatives {tuple(alternatives.shape)}, "
            f"out {tuple(out.chosen.shape)}: expected [{rows}]"
        )
    if rows == 0:
        return
    _read_kernel[(tiles, rows)](
        logits, logits.stride(0), alternatives, partials, vocab_size, **config.options()
    )
    _tell_kernel[(rows,)](
        logits, logits.stride(0), tokens, alternatives, partials, out, vocab_size, tiles,
        TILES=triton.next_power_of_2(tiles), num_warps=config.num_warps,
    )  # fmt: skip


@triton.jit
def _read_kernel(raw_ptr, stride, alternatives_ptr, partials, vocab_size, BLOCK: tl.constexpr):
    tile, row = tl.program_id(0), tl.program_id(1)
    asked = tl.load(alternatives_ptr + row)
    if asked < 0:
        return
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    inside = ids < vocab_size
    row_ptr = raw_ptr + row.to(tl.int64) * stride
    raw = tl.load(row_ptr + ids, mask=inside, other=-_INF).to(tl.float32)
    known = tl.where(raw == raw, raw, -_INF)
    top = tl.max(known)
    # Finite even where the top is not, lest a tile of -inf make a NaN; a NaN logit does make one.
    base = tl.where(tl.abs(top) == _INF, 0.0, top)
    at = row * tl.num_programs(0) + tile
    tl.store(partials.tops + at, top)
    tl.store(partials.sums + at, tl.sum(tl.exp(raw - base)))
    if asked > 0:
        packed = tl.where(inside, _pack(known, ids), _NONE)
        likely_ptr = partials.likely + at.to(tl.int64) * _LISTED + tl.arange(0, _LISTED)
        tl.store(likely_ptr, tl.topk(packed, _LISTED))


@triton.jit
def _pack(logits, ids):
    """Integers in the order of logits, the lower id above the higher one of equal logits."""
    bits = (logits + 0.0).to(tl.int32, bitcast=True)  # adding makes -0 a 0
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return (ordered.to(tl.int64) << 32) | (ids ^ _ID_MASK).to(tl.int64)


@triton.jit
def _tell_kernel(
    raw_ptr, stride, tokens_ptr, alternatives_ptr, partials, out, vocab_size, tiles,
    TILES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    asked = tl.load(alternatives_ptr + row)
    place = tl.arange(0, _LISTED)
    ids = tl.full([_LISTED], -1, tl.int32)
    likely = tl.full([_LISTED], float("nan"), tl.float32)
    chosen = float("nan")
    if asked >= 0:
        row_ptr = raw_ptr + row.to(tl.int64) * stride
        normaliser = _log_sum(partials, row, tiles, TILES)
        chosen = tl.load(row_ptr + tl.load(tokens_ptr + row)).to(tl.float32) - normaliser
        if asked > 0:
            at = tl.arange(0, TILES * _LISTED)
            packed_ptr = partials.likely + row.to(tl.int64) * tiles * _LISTED + at
            packed = tl.load(packed_ptr, mask=at < tiles * _LISTED, other=_NONE)
            best = tl.topk(packed, _LISTED)
            real = (place < asked) & (place < vocab_size)
            ids = tl.where(real, (best & _ID_MASK).to(tl.int32) ^ _ID_MASK, -1)
            logits = tl.load(row_ptr + ids, mask=real, other=float("nan")).to(tl.float32)
            likely = logits - normaliser
    tl.store(out.chosen + row, chosen)
    tl.store(out.ids + row * _LISTED + place, ids)
    tl.store(out.likely + row * _LISTED + place, likely)


@triton.jit
def _log_sum(partials, row, tiles, TILES: tl.constexpr):
    """Logarithm of a row's sum of exponentials; NaN where its logits make no distribution."""
    tile = tl.arange(0, TILES)
    at = row * tiles + tile
    tops = tl.load(partials.tops + at, mask=tile < tiles, other=-_INF)
    sums = tl.load(partials.sums + at, mask=tile < tiles, other=0.0)
    top = tl.max(tops)
    finite = tl.abs(top) != _INF
    total = tl.sum(sums * tl.exp(tops - tl.where(finite, top, 0.0)))
    whole = finite & (total == total)
    logarithm = log(tl.where(whole, total, 1.0).to(tl.float64)).to(tl.float32)
    return tl.where(whole, logarithm + top, float("nan"))
