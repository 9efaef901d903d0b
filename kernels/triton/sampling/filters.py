"""Finds where top-k and top-p end, to within a bin, without sorting: for the rows that have them.

A small top-k is bounded by the largest logits of groups of tokens: among those above the k-th of
them are at least k tokens. Otherwise tokens or their probability are added up by bins of scaled
logits. Invariant: what is before the bracket is kept, what is after it is not, and the tokens
within are on the shortlist, all in whole numbers, so that no sum depends on its order.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.sampling.batch import Choices
from kernels.triton.sampling.portable_math import fixed_exp
from kernels.triton.sampling.scratch import Edited, Scratch
from kernels.triton.sampling.tile import (
    HIGHEST_KEY,
    INF,
    KEY_LEVELS,
    NUM_BINS,
    SMALLEST_TEMPERATURE,
    bins,
    contenders,
    keys,
    level_width,
    limits,
    load_logits,
    row_top,
    scale,
    shorten,
)


def shortlist_filtered(
    logits: torch.Tensor, edited: Edited | None, choices: Choices, scratch: Scratch, tally: bool
) -> None:
    """Shortlist, of each row with a filter, the tokens of which it is not clear if they are kept.

    Of those surely kept only the ones that can win the draw are listed.

    Args:
        logits: [rows, vocab] bfloat16, float16 or float32, its last stride 1.
        edited: which rows were edited; None for none.
        choices: of each row.
        scratch: its maxima are those of these rows; its shortlist is added to.
        tally: whether some row has a top-p without a small top-k, or a large top-k.
    """
    rows, vocab_size = logits.shape
    tiles, block = scratch.tiles, scratch.block
    grid = (tiles, rows)
    warps = choose("sampling_tile", vocab=vocab_size).num_warps
    of_rows = (logits, logits.stride(0), edited, choices, scratch.maxima)
    padded = triton.next_power_of_2(tiles)
    if tally:
        _tally_kernel[grid](
            *of_rows, scratch.histogram, vocab_size,
            BLOCK=block, TILES=padded, num_warps=warps, enable_fp_fusion=False,
        )  # fmt: skip
    groups = scratch.maxima.groups.shape[1]
    _bracket_kernel[(rows,)](
        choices, scratch.maxima, scratch.histogram, scratch.brackets, vocab_size, tiles, groups,
        TALLY=tally, TILES=padded, GROUPS=triton.next_power_of_2(groups),
        num_warps=choose("sampling_row").num_warps, enable_fp_fusion=False,
    )  # fmt: skip
    _collect_kernel[grid](
        *of_rows, scratch.brackets, scratch.shortlist, vocab_size,
        BLOCK=block, TILES=padded, num_warps=warps, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def _tally_kernel(
    logits_ptr, stride, edited, choices, maxima, histogram, vocab_size,
    BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Add up what one tile of a row has in each bin."""
    tile, row = tl.program_id(0), tl.program_id(1)
    temperature = tl.load(choices.temperatures + row)
    limited, small, nucleus = limits(choices, row, vocab_size)[:3]
    if (temperature < SMALLEST_TEMPERATURE) | small | ~(limited | nucleus):
        return
    top = row_top(maxima, row, tl.num_programs(0), TILES)[0]
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    values = load_logits(logits_ptr, stride, edited, row, ids, vocab_size)
    scaled = scale(values, top, temperature)
    bin = row * NUM_BINS + bins(scaled, temperature)
    if limited:
        tl.atomic_add(histogram.counts + bin, 1, mask=ids < vocab_size, sem="relaxed")
    if nucleus:
        # Past the end there is -inf, which weighs nothing, as does most of a vocabulary.
        masses = fixed_exp(scaled)
        tl.atomic_add(histogram.masses + bin, masses, mask=masses > 0, sem="relaxed")


@triton.jit
def _bracket_kernel(
    choices, maxima, histogram, brackets, vocab_size, tiles, groups,
    TALLY: tl.constexpr, TILES: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Find between which bins the last kept token of a row lies."""
    row = tl.program_id(0)
    temperature = tl.load(choices.temperatures + row)
    limited, small, nucleus = limits(choices, row, vocab_size)[:3]
    if temperature < SMALLEST_TEMPERATURE:
        return
    # With min-p alone, every token is before the bracket.
    first, last, last_key = NUM_BINS, -1, HIGHEST_KEY
    if small:
        top = row_top(maxima, row, tiles, TILES)[0]
        group = tl.arange(0, GROUPS)
        highest = tl.load(maxima.groups + row * groups + group, mask=group < groups, other=-INF)
        first, last = 0, NUM_BINS - 1
        last_key = _kth(keys(scale(highest, top, temperature)), tl.load(choices.top_k + row))
        tl.store(brackets.counts + row, 0)
        tl.store(brackets.masses + row, 0)
    elif TALLY and (limited | nucleus):
        first, last = _bracket_tallied(
            histogram, brackets, row, limited, nucleus,
            tl.load(choices.top_k + row), tl.load(choices.top_p + row),
        )  # fmt: skip
    tl.store(brackets.first + row, first)
    tl.store(brackets.last + row, last)
    tl.store(brackets.keys + row, last_key)


@triton.jit
def _kth(numbers, k):
    """The k-th smallest of at least `k` numbers, none of them negative."""
    low = tl.full((), 0, tl.int32)
    for level in range(KEY_LEVELS):
        width = level_width(level)
        ends = low + tl.arange(0, 8) * width + (width - 1)
        counts = tl.sum((numbers[None, :] <= ends[:, None]).to(tl.int32), axis=1)
        low += tl.sum((counts < k).to(tl.int32)) * width
    return low


@triton.jit
def _bracket_tallied(histogram, brackets, row, limited, nucleus, top_k, top_p):
    """Read a row's histogram and clear it."""
    bin = tl.arange(0, NUM_BINS)
    counts_ptr = histogram.counts + row * NUM_BINS + bin
    masses_ptr = histogram.masses + row * NUM_BINS + bin
    counts, masses = tl.load(counts_ptr).to(tl.int64), tl.load(masses_ptr)
    tl.debug_barrier()  # every thread has read its bins
    tl.store(counts_ptr, tl.zeros_like(bin))
    tl.store(masses_ptr, tl.zeros_like(masses))
    total = tl.sum(masses)
    last = NUM_BINS - 1
    if limited:
        last = tl.sum((tl.cumsum(counts) < top_k).to(tl.int32))
    first = last
    if nucleus:
        # Of the bin that top-k ends in, it may leave nothing or all.
        known = tl.sum(tl.where(bin < last, masses, 0)) if limited else total
        wanted = top_p * known.to(tl.float64)
        reached = tl.cumsum(masses).to(tl.float64)
        first = tl.minimum(tl.sum((reached < wanted).to(tl.int32)), last)
        last = last if limited else first
    tl.store(brackets.counts + row, tl.sum(tl.where(bin < first, counts, 0)))
    tl.store(brackets.masses + row, tl.sum(tl.where(bin < first, masses, 0)))
    tl.store(brackets.totals + row, total)
    return first, last


@triton.jit
def _collect_kernel(
    logits_ptr, stride, edited, choices, maxima, brackets, shortlist, vocab_size,
    BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Put on the shortlist what one tile of a row has within the bracket, and what may win."""
    tile, row = tl.program_id(0), tl.program_id(1)
    temperature = tl.load(choices.temperatures + row)
    filtered = limits(choices, row, vocab_size)[3]
    if (temperature < SMALLEST_TEMPERATURE) | ~filtered:
        return
    top = row_top(maxima, row, tl.num_programs(0), TILES)[0]
    first, last = tl.load(brackets.first + row), tl.load(brackets.last + row)
    floor = tl.load(choices.floors + row)
    highest = tl.load(maxima.logits + row * tl.num_programs(0) + tile)
    likeliest = scale(highest, top, temperature)
    last_key = tl.load(brackets.keys + row)
    too_late = (bins(likeliest, temperature) > tl.maximum(first - 1, last)) | (
        keys(likeliest) > last_key
    )
    too_low = (first == NUM_BINS) & (likeliest < floor)
    if too_late | too_low | (highest == -INF):
        return
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    values = load_logits(logits_ptr, stride, edited, row, ids, vocab_size)
    scaled = scale(values, top, temperature)
    bin = bins(scaled, temperature)
    # Impossible tokens would only lengthen the list: any number of them leaves the rest as it is.
    possible = scaled > -INF
    chosen = possible & (bin >= first) & (bin <= last) & (keys(scaled) <= last_key)
    if first > 0:
        sure = possible & (bin < first) & (scaled >= floor)
        hopeful = contenders(scaled, sure, choices, row, tile * BLOCK, BLOCK)
        chosen = chosen | hopeful
    shorten(shortlist, row, tl.where(bin < first, -1 - ids, ids), scaled, chosen, vocab_size)
