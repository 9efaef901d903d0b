"""Root mean square norm: of rows, with the residual added on the way, and of heads, in place.

A program owns a row, or some heads of one token. A row that fits one tile is read once and kept in
registers; a longer one is read twice, the second time from cache. Invariant: sums of squares are
float32, and a result is rounded once.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.rows.residual import load_sum, output_rows


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add `residual` to `x`, and divide by the root mean square of each row.

    Columns past `hidden` up to the tile are masked.

    Args:
        x: [tokens, hidden] bfloat16, float16 or float32, any strides; overwritten by the normed
            rows where there is a residual.
        weight: [hidden] contiguous, factor of each column after the division.
        eps: added to the mean square.
        residual: like `x`, with strides of its own, and overwritten by the sum; None for zero.

    Returns:
        The normed rows, and the sum before the norm (the next residual).

    Raises:
        ValueError: shapes disagree.

    Source: Zhang & Sennrich 2019, section 4.
    """
    tokens, hidden = x.shape
    out, total = output_rows(x, residual, weights=weight)
    if tokens == 0:
        return out, total
    config = choose("rms_norm", hidden=triton.next_power_of_2(hidden))
    _rms_norm_kernel[(tokens,)](
        x, *x.stride(),
        residual, *total.stride(),
        weight, eps,
        out, *out.stride(),
        HIDDEN=hidden, **config.options(),
    )  # fmt: skip
    return out, total


def norm_heads(heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
    """Divide each head by its root mean square and multiply by its weights, in place.

    Args:
        heads: [tokens, heads, head_dim] bfloat16, float16 or float32, any strides.
        weight: [heads, head_dim], any strides.
        eps: added to the mean square.

    Raises:
        ValueError: shapes disagree.
    """
    tokens, count, head_dim = heads.shape
    if weight.shape != (count, head_dim):
        raise ValueError(f"heads {tuple(heads.shape)}, their weights {tuple(weight.shape)}")
    if tokens == 0:
        return
    block_dim = triton.next_power_of_2(head_dim)
    config = choose("norm_heads", head_dim=block_dim, heads=count)
    _norm_heads_kernel[(tokens, triton.cdiv(count, config.tiles["BLOCK_HEADS"]))](
        heads, *heads.stride(),
        weight, *weight.stride(),
        eps,
        HEADS=count, HEAD_DIM=head_dim, BLOCK_DIM=block_dim, **config.options(),
    )  # fmt: skip


@triton.jit
def _rms_norm_kernel(
    x_ptr, x_stride_t, x_stride_c,
    residual_ptr, residual_stride_t, residual_stride_c,
    weight_ptr, eps,
    out_ptr, out_stride_t, out_stride_c,
    HIDDEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # int64: tokens * hidden passes 2**31 at 262,144 tokens of 8,192, by whichever stride.
    token = tl.program_id(0).to(tl.int64)
    x_ptr += token * x_stride_t
    out_ptr += token * out_stride_t
    if residual_ptr is not None:
        residual_ptr += token * residual_stride_t
    columns = tl.arange(0, BLOCK).to(tl.int64)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in tl.static_range(0, HIDDEN, BLOCK):
        at = start + columns
        total = load_sum(x_ptr, x_stride_c, residual_ptr, residual_stride_c, at, at < HIDDEN)
        squares += total.to(tl.float32) * total.to(tl.float32)
    scale = tl.rsqrt(tl.sum(squares, axis=0) / HIDDEN + eps)
    for start in tl.static_range(0, HIDDEN, BLOCK):
        at = start + columns
        inside = at < HIDDEN
        if HIDDEN > BLOCK:
            total = load_sum(x_ptr, x_stride_c, residual_ptr, residual_stride_c, at, inside)
        if residual_ptr is not None:
            tl.store(residual_ptr + at * residual_stride_c, total, mask=inside)
        weight = tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        normed = (total.to(tl.float32) * scale * weight).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + at * out_stride_c, normed, mask=inside)


@triton.jit
def _norm_heads_kernel(
    heads_ptr, stride_t, stride_h, stride_d,
    weight_ptr, weight_stride_h, weight_stride_d,
    eps,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr, BLOCK_DIM: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)).to(tl.int64)[:, None]
    dim = tl.arange(0, BLOCK_DIM).to(tl.int64)[None, :]
    inside = (head < HEADS) & (dim < HEAD_DIM)
    tile_ptr = heads_ptr + token * stride_t + head * stride_h + dim * stride_d
    wide = tl.load(tile_ptr, mask=inside, other=0.0).to(tl.float32)
    weight_tile_ptr = weight_ptr + head * weight_stride_h + dim * weight_stride_d
    weight = tl.load(weight_tile_ptr, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / HEAD_DIM + eps)[:, None]
    normed = (wide * scale * weight).to(heads_ptr.dtype.element_ty)
    tl.store(tile_ptr, normed, mask=inside)
