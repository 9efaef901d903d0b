"""The rotary table: cosines and sines of every position, scaled as the checkpoint was trained.

Invariant: row `p` depends on the spec and on `p` alone. Computed in float32, as the families'
training code did; less precision would move distant tokens.
"""

from __future__ import annotations

import math

import torch

from model_svc.models.spec import Llama3Scaling, RopeSpec


def rope_table(rope: RopeSpec, context: int) -> torch.Tensor:
    """Make the table that `Operations.rope_angles` reads.

    Returns:
        [context, rotary_dim] float32: cosines of the `rotary_dim // 2` angles, then their sines.
    """
    frequencies = inverse_frequencies(rope)
    angles = torch.outer(torch.arange(context, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def inverse_frequencies(rope: RopeSpec) -> torch.Tensor:
    """Radians per position of each pair of columns: [rotary_dim // 2] float32."""
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    frequencies = 1.0 / rope.theta**exponents
    if rope.scaling is None:
        return frequencies
    if isinstance(rope.scaling, Llama3Scaling):
        return _llama3(frequencies, rope.scaling)
    return frequencies / rope.scaling.factor


def _llama3(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    """Slow down low frequencies, keep high ones, and blend in between.

    Source: Llama 3.1's released model code (the paper, arXiv 2407.21783, gives only the theta).
    """
    turns = scaling.original_context * frequencies / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    keep = ((turns - scaling.low_freq_factor) / span).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / scaling.factor)
