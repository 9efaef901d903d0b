"""Packed layers as a model calls them.

Invariant: a layer keeps its weights as they were packed, and computes the same at every call.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch


class LinearContext(Protocol):
    """Addition to the products of one layer in one call, such as the adapters of its tokens."""

    def add(self, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """Add to `out` [tokens, outputs], which may be overwritten, by `x` [tokens, inputs]."""
        ...


class Linear(Protocol):
    """A packed linear layer: `[tokens, inputs]` to `[tokens, outputs]`.

    A call with a context adds it to the products, before any gating, and cannot be captured.
    """

    def __call__(self, x: torch.Tensor, context: LinearContext | None = None, /) -> torch.Tensor:
        """Multiply `x`.

        Raises:
            ValueError: there is a context, and the layer fuses products and gating.
        """
        ...


class Experts(Protocol):
    """A packed mixture of experts: the weighted sum of the likeliest experts of each token.

    `[tokens, hidden]` to the same; the softmax over the router's scores is taken in float32.

    Source: Jiang et al. 2024 (Mixtral), section 2.1.
    """

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor: ...


Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
"""Activation of gates or products; `gelu_tanh` is GELU's approximation by a tanh."""
