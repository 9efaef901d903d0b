"""How near a kernel's result must be to the oracle's, which is computed in float64."""

from __future__ import annotations

import torch

DTYPES = [torch.bfloat16, torch.float16, torch.float32]

# Of the norm of the difference, over the norm of what is wanted.
_RELATIVE_L2 = {torch.bfloat16: 4e-3, torch.float16: 4e-3, torch.float32: 1e-5}
_RELATIVE = 2e-2


def assert_near(got: torch.Tensor, want: torch.Tensor, relative_l2: float | None = None) -> None:
    """Compare with the oracle as a whole, and value by value away from zero.

    Args:
        got: any floating dtype.
        want: float64, of the same shape.
        relative_l2: the bound, or None for that of the dtype of `got`.
    """
    assert got.shape == want.shape
    got, bound = got.double().cpu(), relative_l2 or _RELATIVE_L2[got.dtype]
    want = want.cpu()
    assert got.isfinite().all()
    error = (got - want).abs()
    assert error.norm() <= bound * want.norm()
    away = want.abs() > 0.1 * want.square().mean().sqrt()
    most = max(_RELATIVE, 5 * bound)
    assert (error[away] <= most * want.abs()[away]).all()
