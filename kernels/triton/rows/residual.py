"""Addition of the residual as rows are loaded, shared by the row norms.

Invariant: the sum is rounded to the rows' dtype before anything is computed from it, so a norm sees
what the next layer will see.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_sum(x_ptr, x_stride, residual_ptr, residual_stride, columns, inside):
    """`x` and `residual`, where there is one, at `columns` of one row; zero where not `inside`."""
    x = tl.load(x_ptr + columns * x_stride, mask=inside, other=0.0)
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + columns * residual_stride, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
    return x
