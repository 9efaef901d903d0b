"""Operations and layers in plain PyTorch that several devices share; none can be captured.

Invariant: nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from kernels.formats import DENSE, Dense
from kernels.layers import Linear, LinearContext


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `Operations.take_rows`."""
    return x.index_select(0, rows)


class TorchLinear:
    """PyTorch's own product; see `Linear`."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, format: Dense = DENSE
    ) -> None:
        """Keep `weight` [outputs, inputs] and `bias` [outputs] as they are."""
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, outputs]."""
        out = functional.linear(x, self._weight, self._bias)
        return out if context is None else context.add(x, out)


class Gated:
    """A product of gates and ups and, after it, the gating; see `Linear`."""

    def __init__(self, product: Linear, gate: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Gate what `product` gives."""
        self._product = product
        self._gate = gate

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, intermediate]."""
        return self._gate(self._product(x, context))
