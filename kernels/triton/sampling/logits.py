"""Changes rows of logits as their requests ask, and keeps the history that penalties go by.

Invariant: the raw logits stay as they are; an edited row is a copy in float32, with the bits that
`kernels.cpu.logits` finds, also where they overflow; so launches switch contraction off.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.sampling.batch import Edits, Ragged
from kernels.triton.sampling.scratch import Edited

_INF = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(torch.finfo(torch.float32).max)


def edit_logits(
    logits: torch.Tensor, edits: Edits, positions: torch.Tensor, edited: Edited
) -> None:
    """Add the bias, then apply the penalties, then make suppressed tokens impossible.

    Ids outside the vocabulary are passed over. A row with nothing to change costs nothing.

    Args:
        logits: [rows, vocab] bfloat16, float16 or float32, its last stride 1.
        edits: of each row.
        positions: [rows] int64, of the token to draw.
        edited: written: which rows were changed, and their logits.

    Raises:
        ValueError: shapes or strides disagree.

    Source: Keskar et al. 2019 (CTRL), section 4.1, for the repetition penalty.
    """
    rows, vocab_size = logits.shape
    if logits.stride(1) != 1 or edited.logits.shape[1] != vocab_size:
        raise ValueError(
            f"logits {tuple(logits.shape)} by {logits.stride()}, "
            f"room for {tuple(edited.logits.shape)}"
        )
    config = choose("edit_logits", vocab=vocab_size)
    _edit_kernel[(triton.cdiv(vocab_size, config.tiles["PART"]), rows)](
        logits, logits.stride(0), edits, positions, edited, vocab_size,
        enable_fp_fusion=False, **config.options(),
    )  # fmt: skip


def note_tokens(tokens: torch.Tensor, history: Ragged) -> None:
    """Add a token to each row's history, where the next draw on the device looks for it.

    Args:
        tokens: [rows] int32, what was drawn.
        history: as in `Edits`, with room for one more id behind each row's stretch; a row whose
            start is negative keeps none.
    """
    assert history.amounts is not None  # a history counts
    _note_kernel[(tokens.shape[0],)](tokens, history, BLOCK=1024, num_warps=4)


@triton.jit
def _edit_kernel(
    raw_ptr, stride, edits, positions_ptr, edited, vocab_size,
    PART: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy and change the ids of one part of a row; no other program touches them."""
    part, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    added = tl.load(edits.bias.lengths + row)
    seen = tl.load(edits.history.lengths + row)
    early = tl.load(positions_ptr + row) < tl.load(edits.min_tokens + row)
    suppressed = tl.where(early, tl.load(edits.suppressed.lengths + row), 0)
    changed = (added > 0) | (seen > 0) | (suppressed > 0)
    tl.store(edited.rows + row, changed.to(tl.int32))
    if changed:
        row_ptr = edited.logits + row * vocab_size
        begin = part * PART
        for start in tl.range(0, PART, BLOCK):
            ids = begin + start + tl.arange(0, BLOCK)
            inside = ids < vocab_size
            values = tl.load(raw_ptr + row * stride + ids, mask=inside, other=0.0)
            tl.store(row_ptr + ids, values.to(tl.float32), mask=inside)
        end = tl.minimum(begin + PART, vocab_size)
        # A barrier before each list: the next may have the same ids in other threads' hands.
        tl.debug_barrier()
        for start in range(0, added, BLOCK):
            ids, at, own = _own(edits.bias, row, start, added, begin, end, BLOCK)
            values = tl.load(row_ptr + ids, mask=own, other=0.0)
            amounts = tl.load(edits.bias.amounts + at, mask=own, other=0.0)
            finite = (tl.abs(values) < _INF) & (tl.abs(amounts) < _INF)
            values = tl.where(finite, _saturate(values + amounts), values + amounts)
            tl.store(row_ptr + ids, values, mask=own)
        tl.debug_barrier()
        repetition = tl.load(edits.repetition + row)
        frequency = tl.load(edits.frequency + row)
        presence = tl.load(edits.presence + row)
        for start in range(0, seen, BLOCK):
            ids, at, own = _own(edits.history, row, start, seen, begin, end, BLOCK)
            raw = tl.load(row_ptr + ids, mask=own, other=0.0)
            counts = tl.load(edits.history.amounts + at, mask=own, other=0)
            values = tl.where(raw > 0, tl.div_rn(raw, repetition), raw * repetition)
            values -= _saturate(frequency * counts.to(tl.float32))
            values = _saturate(values - presence * (counts > 0).to(tl.float32))
            tl.store(row_ptr + ids, tl.where(tl.abs(raw) < _INF, values, raw), mask=own)
        tl.debug_barrier()
        for start in range(0, suppressed, BLOCK):
            ids, at, own = _own(edits.suppressed, row, start, suppressed, begin, end, BLOCK)
            tl.store(row_ptr + ids, float("-inf"), mask=own)


@triton.jit
def _saturate(values):
    """`values` with infinities replaced by the largest numbers of float32."""
    return tl.minimum(tl.maximum(values, -_LARGEST), _LARGEST)


@triton.jit
def _own(ragged, row, start, length, begin, end, BLOCK: tl.constexpr):
    """Some of a row's ids, where they stand in the list, and which are from `begin` to `end`."""
    place = start + tl.arange(0, BLOCK)
    at = tl.load(ragged.starts + row) + place
    ids = tl.load(ragged.ids + at, mask=place < length, other=-1)
    return ids, at, (ids >= begin) & (ids < end)


@triton.jit
def _note_kernel(tokens_ptr, history, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    begin = tl.load(history.starts + row)
    if begin >= 0:
        token = tl.load(tokens_ptr + row)
        length = tl.load(history.lengths + row)
        known = 0
        for start in range(0, length, BLOCK):
            place = start + tl.arange(0, BLOCK)
            here = tl.load(history.ids + begin + place, mask=place < length, other=-1) == token
            counts = tl.load(history.amounts + begin + place, mask=here, other=0)
            tl.store(history.amounts + begin + place, counts + 1, mask=here)
            known += tl.sum(here.to(tl.int32))
        if known == 0:
            tl.store(history.ids + begin + length, token)
            tl.store(history.amounts + begin + length, 1)
            tl.debug_barrier()  # every thread has read the length
            tl.store(history.lengths + row, length + 1)
