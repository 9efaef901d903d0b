"""Muon for the matrices inside the layers, AdamW for embedding, router and norms.

Invariant: each weight belongs to exactly one optimiser, and both follow one learning-rate scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MUON_RATE = 0.02
ADAM_RATE = 3e-3
NEWTON_SCHULZ_STEPS = 5


def orthogonalise(update: Tensor) -> Tensor:
    """Replace each matrix by a nearby one whose singular values are all about one.

    Args:
        update: `[..., rows, columns]`.

    Source: Muon (Jordan et al., 2024): a quintic Newton-Schulz iteration with its coefficients.
    """
    x = update.flatten(0, -3) if update.ndim > 3 else update
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal.reshape(update.shape)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised, matrix by matrix."""

    def __init__(self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": 0.05})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply one update to every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, float]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        velocity = self.state[weight].setdefault("velocity", torch.zeros_like(weight))
        velocity.lerp_(gradient, 1 - momentum)
        update = orthogonalise(torch.lerp(gradient, velocity, momentum))
        # Tall matrices get the same gain per input as square ones.
        scale = max(1.0, weight.shape[-2] / weight.shape[-1]) ** 0.5
        weight.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr * scale)


class Optimisers:
    """Both optimisers behind one step."""

    def __init__(self, model: nn.Module) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            inside = name.startswith("layers.") and weight.ndim >= 2 and ".gate." not in name
            (matrices if inside else others).append(weight)
        adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (Muon(matrices, MUON_RATE), MUON_RATE),
            (adam, ADAM_RATE),
        ]

    def step(self, rate_scale: float) -> None:
        """Update all weights, then forget their gradients.

        Args:
            rate_scale: factor on both learning rates.
        """
        for optimiser, rate in self._parts:
            for group in optimiser.param_groups:
                group["lr"] = rate * rate_scale
            optimiser.step()
            optimiser.zero_grad()

    def state_dict(self) -> list[dict[str, object]]:
        """State for `load_state_dict`."""
        return [optimiser.state_dict() for optimiser, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Continue from a saved state."""
        for (optimiser, _), state in zip(self._parts, states, strict=True):
            optimiser.load_state_dict(state)
