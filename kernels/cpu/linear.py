"""Linear layers with weights laid out as oneDNN multiplies them fastest.

Invariant: a packed layer gives the same rows whatever other rows are multiplied with them, up to
rounding.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from kernels.formats import DENSE, Dense
from kernels.layers import Linear, LinearContext
from kernels.uncaptured import TorchLinear

# oneDNN compiles code for every number of rows it meets (a millisecond or so) and keeps the code
# of the last 1,024 shapes. Up to EXACT_ROWS each number is met often; above, they are rounded up
# to few.
EXACT_ROWS = 64
ROW_STEP = 16


def pack_linear(weight: torch.Tensor, bias: torch.Tensor | None, format: Dense = DENSE) -> Linear:
    """See `Operations.pack_linear`: prepacked for oneDNN where it multiplies this dtype."""
    if not prepacks(weight.dtype):
        return TorchLinear(weight, bias)
    return _PackedLinear(weight, bias)


def prepacks(dtype: torch.dtype) -> bool:
    """This machine's oneDNN multiplies `dtype` without converting it."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32


class _PackedLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self._bias = bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        out = self._product(x)
        return out if context is None else context.add(x, out)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        spare = -rows % ROW_STEP if rows > EXACT_ROWS else 0
        if spare:
            x = functional.pad(x, (0, 0, 0, spare))
        out: torch.Tensor = self._multiply(x, self._weight, self._bias, "none", [], "")
        return out[:rows] if spare else out
