"""The pass over its logits that every row takes.

Finds each tile's largest logit, which is all that a greedy row needs. Of a row without filters
it lists the tokens that can win the draw, and of one with a small top-k it notes the largest logit
of each group. Invariant: whichever token wins, it is on the list.

A tile does not know the row's largest logit, so it measures from its own. Both distances are
rounded, but the winner's noise outweighs its distance: both are below 26, and rounding moves a
difference of scores by less than 2e-5, far within the margin of the bounds.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.sampling.batch import Choices
from kernels.triton.sampling.scratch import Edited, Scratch
from kernels.triton.sampling.tile import (
    GROUP_TOKENS,
    INF,
    NO_ID,
    SMALLEST_TEMPERATURE,
    contenders,
    limits,
    load_logits,
    scale,
    shorten,
)


def scan(logits: torch.Tensor, edited: Edited | None, choices: Choices, scratch: Scratch) -> None:
    """Find the largest logits of each row, and shortlist the tokens of rows without filters.

    Args:
        logits: [rows, vocab] bfloat16, float16 or float32, its last stride 1.
        edited: which rows were edited; None for none.
        choices: of each row.
        scratch: its maxima are written, its shortlist is added to.
    """
    rows, vocab_size = logits.shape
    config = choose("sampling_tile", vocab=vocab_size)
    _scan_kernel[(scratch.tiles, rows)](
        logits, logits.stride(0), edited, choices, scratch.maxima, scratch.shortlist,
        vocab_size, BLOCK=scratch.block, num_warps=config.num_warps, enable_fp_fusion=False,
    )  # fmt: skip


@triton.jit
def _scan_kernel(
    logits_ptr, stride, edited, choices, maxima, shortlist, vocab_size, BLOCK: tl.constexpr
):
    tile, row = tl.program_id(0), tl.program_id(1)
    ids = tile * BLOCK + tl.arange(0, BLOCK)
    values = load_logits(logits_ptr, stride, edited, row, ids, vocab_size)
    top = tl.max(values)
    at = row * tl.num_programs(0) + tile
    tl.store(maxima.logits + at, top)
    tl.store(maxima.ids + at, tl.min(tl.where(values == top, ids, NO_ID)))
    temperature = tl.load(choices.temperatures + row)
    if temperature < SMALLEST_TEMPERATURE:
        return
    _, small, _, filtered = limits(choices, row, vocab_size)
    if small:
        GROUPS: tl.constexpr = BLOCK // GROUP_TOKENS
        highest = tl.max(tl.reshape(values, [GROUPS, GROUP_TOKENS]), axis=1)
        tl.store(maxima.groups + at * GROUPS + tl.arange(0, GROUPS), highest)
    if not filtered:
        scaled = scale(values, top, temperature)
        possible = (values > -INF) & (scaled > -INF)
        hopeful = contenders(scaled, possible, choices, row, tile * BLOCK, BLOCK)
        shorten(shortlist, row, -1 - ids, values, hopeful, vocab_size)
