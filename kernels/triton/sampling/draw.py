"""Draws a token for each row of logits, on the device from end to end.

A row without filters takes one pass over its logits, one with a small top-k or min-p two, with
top-p or a large top-k three; none is sorted. Invariants: the tokens are those that
`kernels.cpu.sampling` draws from equal logits; a row's token and work depend on that row alone;
and grids depend on shapes and `Uses` alone, so that a step can be replayed from a CUDA graph.
"""

from __future__ import annotations

import torch

from kernels.devices import DTYPES
from kernels.triton.sampling.batch import Choices, Edits, Uses
from kernels.triton.sampling.filters import shortlist_filtered
from kernels.triton.sampling.finish import finish
from kernels.triton.sampling.logits import edit_logits
from kernels.triton.sampling.scan import scan
from kernels.triton.sampling.scratch import Scratch


def draw(
    logits: torch.Tensor,
    choices: Choices,
    edits: Edits | None,
    uses: Uses,
    scratch: Scratch,
    tokens: torch.Tensor,
) -> None:
    """Draw the next token of every row.

    In this order: bias, penalties, suppressed tokens; temperature 0 takes the likeliest token,
    otherwise temperature, top-k, top-p, min-p and the draw. Equally likely tokens rank by id,
    lowest first. NaN counts as -inf; where a row holds +inf, only such tokens can be drawn, all
    equally likely; a row with nothing but -inf gives id 0.

    Args:
        logits: [rows, vocab] bfloat16, float16 or float32, its last stride 1; left as they are.
        choices: of each row.
        edits: of each row; None where no row has any.
        uses: what some row needs, as `Uses.by` finds.
        scratch: for at least so many rows of this vocabulary; one draw at a time.
        tokens: [rows] int32, written.

    Raises:
        ValueError: shapes, strides or types disagree.
    """
    _check(logits, choices, scratch, tokens)
    if logits.shape[0] == 0:
        return
    edited = None
    if edits is not None:
        edited = scratch.edited
        edit_logits(logits, edits, choices.positions, edited)
    scan(logits, edited, choices, scratch)
    if uses.filters:
        shortlist_filtered(logits, edited, choices, scratch, uses.tally)
    finish(choices, scratch, tokens, logits.shape[1])


def _check(logits: torch.Tensor, choices: Choices, scratch: Scratch, tokens: torch.Tensor) -> None:
    rows, vocab_size = logits.shape
    if vocab_size != scratch.vocab_size or rows > scratch.rows:
        room = [scratch.rows, scratch.vocab_size]
        raise ValueError(f"logits {tuple(logits.shape)}: there is scratch for {room}")
    if logits.dtype not in DTYPES or logits.stride(1) != 1:
        raise ValueError(f"logits {logits.dtype} by {logits.stride()}: expected contiguous rows")
    if tokens.shape != (rows,) or tokens.dtype != torch.int32:
        raise ValueError(f"tokens {tuple(tokens.shape)} {tokens.dtype}: expected [{rows}] int32")
    for name, choice in zip(Choices._fields, choices, strict=True):
        if choice.shape != (rows,):
            raise ValueError(f"{name} {tuple(choice.shape)}: expected [{rows}]")
