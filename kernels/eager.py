"""What the sets have in common that compute every operation as it is called, in PyTorch's order.

Invariant: nothing is kept between two calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


def capture(compute: Callable[[], torch.Tensor]) -> None:
    """See `Operations.capture`: nothing is taken down."""


def take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """See `Operations.take_rows`."""
    return x.index_select(0, rows)
