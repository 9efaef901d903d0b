"""Outputs of the row norms, and the addition of the residual as rows are loaded.

Invariant: the sum is rounded to the rows' dtype before anything is computed from it, so a norm sees
what the next layer will see.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl


def output_rows(
    x: torch.Tensor, residual: torch.Tensor | None, **columns: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tensors that a norm writes to: the normed rows, and the sum before the norm.

    Args:
        x: [tokens, hidden]; overwritten where there is a residual.
        residual: [tokens, hidden], None for none; overwritten by the sum.
        columns: parameters by name, [hidden] each; None for none.

    Raises:
        ValueError: shapes disagree.
    """
    for name, each in columns.items():
        if each is not None and each.shape != x.shape[1:]:
            raise ValueError(f"rows {tuple(x.shape)}, {name} {tuple(each.shape)}")
    if residual is None:
        return torch.empty(x.shape, dtype=x.dtype, device=x.device), x
    if residual.shape != x.shape:
        raise ValueError(f"rows {tuple(x.shape)}, residual {tuple(residual.shape)}")
    return x, residual


@triton.jit
def load_sum(x_ptr, x_stride, residual_ptr, residual_stride, columns, inside):
    """`x` and `residual`, where there is one, at `columns` of one row; zero where not `inside`."""
    x = tl.load(x_ptr + columns * x_stride, mask=inside, other=0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + columns * residual_stride, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
    return x
