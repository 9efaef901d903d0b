"""What the sets have in common that compute every operation as it is called, in PyTorch's order.

Invariant: nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels.ops import Linear, PackLinear


def capture(compute: Callable[[], torch.Tensor]) -> None:
    """See `Operations.capture`: nothing is taken down."""


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `Operations.take_rows`."""
    return x.index_select(0, rows)


def gated(pack_linear: PackLinear, silu_mul: Callable[[torch.Tensor], torch.Tensor]) -> PackLinear:
    """`Operations.pack_gated` as a product and, after it, the gating."""

    def pack_gated(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        product = pack_linear(weight, bias)
        return lambda x: silu_mul(product(x))

    return pack_gated
