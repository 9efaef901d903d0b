"""Layer norm of rows, with the residual added on the way.

A program owns a row. A row that fits one tile is read once and kept in registers; a longer one is
read twice. Invariant: mean and variance are float32 and taken about the tile's own mean, never as a
difference of sums of squares, and a result is rounded once.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.triton.configs import choose
from kernels.triton.rows.residual import load_sum, output_rows


def layer_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    residual: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add `residual` to `x`, and bring each row to mean zero and variance one.

    Columns past `hidden` up to the tile are masked.

    Args:
        x: [tokens, hidden] bfloat16, float16 or float32, any strides; overwritten by the normed
            rows where there is a residual.
        weight: [hidden] contiguous, factor of each column after the norm.
        bias: [hidden] contiguous, added after the factor; None for zero.
        eps: added to the variance, which is that of the row (divided by `hidden`).
        residual: like `x`, with strides of its own, and overwritten by the sum; None for zero.

    Returns:
        The normed rows, and the sum before the norm (the next residual).

    Raises:
        ValueError: shapes disagree.

    Source: Ba et al. 2016, section 3; Chan et al. 1979 for joining the tiles of a row.
    """
    tokens, hidden = x.shape
    out, total = output_rows(x, residual, weights=weight, biases=bias)
    if tokens == 0:
        return out, total
    config = choose("layer_norm", hidden=triton.next_power_of_2(hidden))
    _layer_norm_kernel[(tokens,)](
        x, *x.stride(),
        residual, *total.stride(),
        weight, bias, eps,
        out, *out.stride(),
        HIDDEN=hidden, **config.options(),
    )  # fmt: skip
    return out, total


@triton.jit
def _layer_norm_kernel(
    x_ptr, x_stride_t, x_stride_c,
    residual_ptr, residual_stride_t, residual_stride_c,
    weight_ptr, bias_ptr, eps,
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
    mean, spread = 0.0, 0.0
    for start in tl.static_range(0, HIDDEN, BLOCK):
        at = start + columns
        inside = at < HIDDEN
        total = load_sum(x_ptr, x_stride_c, residual_ptr, residual_stride_c, at, inside)
        wide = total.to(tl.float32)
        count = min(HIDDEN - start, BLOCK)
        tile_mean = tl.sum(wide, axis=0) / count
        about = tl.where(inside, wide - tile_mean, 0.0)
        apart = tile_mean - mean
        # The tile joins the `start` columns before it.
        mean += apart * (count / (start + count))
        spread += tl.sum(about * about, axis=0) + apart * apart * (start * count / (start + count))
    scale = tl.rsqrt(spread / HIDDEN + eps)
    for start in tl.static_range(0, HIDDEN, BLOCK):
        at = start + columns
        inside = at < HIDDEN
        if HIDDEN > BLOCK:
            total = load_sum(x_ptr, x_stride_c, residual_ptr, residual_stride_c, at, inside)
        if residual_ptr is not None:
            tl.store(residual_ptr + at * residual_stride_c, total, mask=inside)
        normed = (total.to(tl.float32) - mean) * scale
        normed *= tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if bias_ptr is not None:
            normed += tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + at * out_stride_c, normed.to(out_ptr.dtype.element_ty), mask=inside)
