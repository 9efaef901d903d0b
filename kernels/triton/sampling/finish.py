"""Draws each row's token from its shortlist.

Searches where top-k and top-p end among the listed tokens, by likelihood and then by id, and then
for the best score among what is kept. Invariants: the list's order does not matter; scores have
the bits of `kernels.cpu.sampling`'s; and work is in proportion to the list.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.sampling.batch import Choices
from kernels.triton.sampling.philox import gumbel, token_words
from kernels.triton.sampling.portable_math import fixed_exp
from kernels.triton.sampling.scratch import Scratch
from kernels.triton.sampling.tile import (
    HIGHEST_KEY,
    INF,
    KEY_LEVELS,
    NO_ID,
    SMALLEST_TEMPERATURE,
    keys,
    level_width,
    limits,
    row_top,
    scale,
)

# What a search goes by, and what it adds up.
_KEYS, _MASSES, _IDS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
_MOST = tl.constexpr(2**63 - 1)


def finish(choices: Choices, scratch: Scratch, tokens: torch.Tensor, vocab_size: int) -> None:
    """Draw every row's token from what is on its shortlist, and clear the list.

    Args:
        choices: of each row.
        scratch: with the maxima, brackets and shortlists of these rows.
        tokens: [rows] int32, written.
        vocab_size: of the logits.
    """
    config = choose("sampling_row")
    _finish_kernel[(tokens.shape[0],)](
        choices, scratch.maxima, scratch.brackets, scratch.shortlist, tokens,
        vocab_size, scratch.tiles, TILES=triton.next_power_of_2(scratch.tiles),
        enable_fp_fusion=False, **config.options(),
    )  # fmt: skip


@triton.jit
def _finish_kernel(
    choices, maxima, brackets, shortlist, tokens_ptr, vocab_size, tiles,
    TILES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    top, token = row_top(maxima, row, tiles, TILES)
    temperature = tl.load(choices.temperatures + row)
    length = tl.load(shortlist.lengths + row)
    if (temperature >= SMALLEST_TEMPERATURE) & (length > 0):
        place = row.to(tl.int64) * vocab_size
        listed = (shortlist.ids + place, shortlist.logits + place, length)
        limited, _, nucleus, filtered = limits(choices, row, vocab_size)
        last_key, last_id = tl.full((), HIGHEST_KEY, tl.int32), tl.full((), HIGHEST_KEY, tl.int32)
        if limited | nucleus:
            last_key, last_id = _cut(listed, choices, brackets, row, limited, nucleus, TILE)
        token = _winner(
            listed, choices, row, top, temperature, filtered, last_key, last_id, TILE
        )  # fmt: skip
        tl.debug_barrier()  # every thread has read the length
        tl.store(shortlist.lengths + row, 0)
    tl.store(tokens_ptr + row, token)


@triton.jit
def _read(listed, start, TILE: tl.constexpr):
    """Some listed tokens: ids, values, whether surely kept, and whether there is such a token."""
    ids_ptr, values_ptr, length = listed
    at = start + tl.arange(0, TILE)
    inside = at < length
    ids = tl.load(ids_ptr + at, mask=inside, other=0)
    values = tl.load(values_ptr + at, mask=inside, other=-INF)
    sure = ids < 0
    return tl.where(sure, -1 - ids, ids), values, sure, inside


@triton.jit
def _cut(listed, choices, brackets, row, limited, nucleus, TILE: tl.constexpr):
    """The key and id of the last token that top-k and top-p keep."""
    key, id = tl.full((), HIGHEST_KEY, tl.int32), tl.full((), HIGHEST_KEY, tl.int32)
    if limited:
        wanted = tl.load(choices.top_k + row) - tl.load(brackets.counts + row)
        key, id = _last(listed, wanted, key, id, _KEYS, TILE)
    if nucleus:
        before = tl.load(brackets.masses + row)
        if limited:
            total = before + _survey(listed, key, id, _MASSES, TILE)[0]
        else:
            total = tl.load(brackets.totals + row)
        share = tl.load(choices.top_p + row) * total.to(tl.float64)
        wanted = share.to(tl.int64)
        wanted += (wanted.to(tl.float64) < share).to(tl.int64)
        key, id = _last(listed, wanted - before, key, id, _MASSES, TILE)
    return key, id


@triton.jit
def _weigh(listed, start, last_key, last_id, BY: tl.constexpr, TILE: tl.constexpr):
    """Ranks of some listed tokens, their summands, and a mask of those that count."""
    ids, scaled, sure, inside = _read(listed, start, TILE)
    key = keys(scaled)
    counted = inside & ~sure & ((key < last_key) | ((key == last_key) & (ids <= last_id)))
    rank = key
    if BY == _IDS:
        rank = ids
        counted = counted & (key == last_key)
    weight = counted.to(tl.int64)
    if BY == _MASSES:
        weight *= fixed_exp(scaled)
    return rank, weight, counted


@triton.jit
def _survey(listed, last_key, last_id, BY: tl.constexpr, TILE: tl.constexpr):
    """Sum of the tokens up to the last one, and their lowest and highest rank."""
    total = tl.full((), 0, tl.int64)
    lowest, highest = tl.full((), HIGHEST_KEY, tl.int32), tl.full((), 0, tl.int32)
    for start in range(0, listed[2], TILE):
        rank, weight, counted = _weigh(listed, start, last_key, last_id, BY, TILE)
        total += tl.sum(weight)
        lowest = tl.minimum(lowest, tl.min(tl.where(counted, rank, HIGHEST_KEY)))
        highest = tl.maximum(highest, tl.max(tl.where(counted, rank, 0)))
    return total, lowest, highest


@triton.jit
def _last(listed, wanted, last_key, last_id, BY: tl.constexpr, TILE: tl.constexpr):
    """The key and id of the token at which the likeliest reach what is `wanted`.

    Not beyond `last_key` and `last_id`, which are it where there is no more than that.
    """
    key, id = last_key, last_id
    total, lowest, highest = _survey(listed, last_key, last_id, BY, TILE)
    # Tokens that weigh nothing are dropped also where it takes all the others.
    if (total >= wanted) if BY == _MASSES else (total > wanted):
        key, before, reached = _search(
            listed, wanted, total, lowest, highest, last_key, last_id, BY, TILE
        )  # fmt: skip
        id = tl.where(key == last_key, last_id, HIGHEST_KEY)
        each = tl.full((), 1, tl.int64)
        if BY == _MASSES:
            scaled = tl.full((1,), 0, tl.float32) - key.to(tl.float32, bitcast=True)
            each = tl.sum(fixed_exp(scaled))
        equals = (wanted - before + each - 1) // each
        if before + equals * each < reached:
            # Of the equally likely ones, those with the lowest ids.
            total, lowest, highest = _survey(listed, key, id, _IDS, TILE)
            id, before, reached = _search(
                listed, equals, total, lowest, highest, key, id, _IDS, TILE
            )  # fmt: skip
    return key, id


@triton.jit
def _search(
    listed, wanted, total, lowest, highest, last_key, last_id,
    BY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The least rank up to which tokens add up to `wanted`; their sums before it, and with it."""
    low = tl.full((), 0, tl.int32)
    before = tl.full((), 0, tl.int64)
    reached = total
    for level in range(KEY_LEVELS):
        width = level_width(level)
        if width <= highest - lowest:
            ends = low + tl.arange(0, 8) * width + (width - 1)
            sums = tl.zeros([8], tl.int64)
            for start in range(0, listed[2], TILE):
                rank, weight, _ = _weigh(listed, start, last_key, last_id, BY, TILE)
                within = (rank - lowest)[None, :] <= ends[:, None]
                sums += tl.sum(tl.where(within, weight[None, :], 0), axis=1)
            short = sums < wanted
            low += tl.sum(short.to(tl.int32)) * width
            before = tl.maximum(before, tl.max(tl.where(short, sums, 0)))
            reached = tl.min(tl.where(short, _MOST, sums))
    return lowest + low, before, reached


@triton.jit
def _winner(
    listed, choices, row, top, temperature, filtered, last_key, last_id, TILE: tl.constexpr
):
    """The kept token with the best score, the lowest id among equals."""
    floor = tl.load(choices.floors + row)
    seed = tl.load(choices.seeds + row)
    position = tl.load(choices.positions + row)
    candidate = tl.load(choices.candidates + row)
    best = tl.full((), -INF, tl.float64)
    token = tl.full((), NO_ID, tl.int32)
    for start in range(0, listed[2], TILE):
        ids, values, sure, inside = _read(listed, start, TILE)
        scaled = tl.where(filtered, values, scale(values, top, temperature))
        key = keys(scaled)
        kept = sure | (key < last_key) | ((key == last_key) & (ids <= last_id))
        kept = kept & inside & (scaled >= floor)
        noise = gumbel(token_words(seed, position, candidate, ids))
        score = tl.where(kept, scaled.to(tl.float64) + noise, -INF)
        tile_best = tl.max(score)
        tile_token = tl.min(tl.where(kept & (score == tile_best), ids, NO_ID))
        lowest = tl.where(tile_best == best, tl.minimum(token, tile_token), token)
        token = tl.where(tile_best > best, tile_token, lowest)
        best = tl.maximum(best, tile_best)
    return token
