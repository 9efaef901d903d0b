"""Operations and layers in plain PyTorch that several devices share; none can be captured.

Invariant: nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from kernels.formats import DENSE, Dense
from kernels.layers import Activation, Linear, LinearContext

Gate = Callable[[torch.Tensor], torch.Tensor]


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

    def __init__(self, product: Linear, gate: Gate) -> None:
        """Gate what `product` gives."""
        self._product = product
        self._gate = gate

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """[tokens, inputs] to [tokens, intermediate]."""
        return self._gate(self._product(x, context))


def _activation(compute: Callable[[torch.Tensor], torch.Tensor]) -> Gate:
    """An activation in twice the precision: near zeros, float32's last bits depend on the place."""

    def activate(x: torch.Tensor) -> torch.Tensor:
        wide = torch.float64 if x.dtype == torch.float32 else torch.float32
        return compute(x.to(torch.promote_types(x.dtype, wide))).to(x.dtype)

    return activate


def relu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """`relu(gate) * up` of [tokens, 2 * intermediate], gate before up."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.relu(gate) * up


ACTIVATIONS: dict[Activation, Gate] = {
    "silu": _activation(functional.silu),
    "gelu": _activation(functional.gelu),
    "gelu_tanh": _activation(partial(functional.gelu, approximate="tanh")),
    "relu": functional.relu,
}
"""Activations of layers without gates, by their names in `kernels.layers`."""
