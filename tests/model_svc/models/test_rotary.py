"""Rotary frequencies, as each kind of scaling defines them."""

from __future__ import annotations

import math

import torch

from model_svc.models.rotary import inverse_frequencies, rope_table
from model_svc.models.spec import LinearScaling, Llama3Scaling, RopeSpec


def test_table_holds_cosines_then_sines_of_each_position() -> None:
    table = rope_table(RopeSpec(100.0, rotary_dim=4), context=3)

    angles = torch.tensor([[position * 1.0, position * 0.1] for position in range(3)])
    torch.testing.assert_close(table, torch.cat((angles.cos(), angles.sin()), dim=1))


def test_linear_scaling_slows_all_frequencies() -> None:
    plain = inverse_frequencies(RopeSpec(1e4, 20))

    torch.testing.assert_close(
        inverse_frequencies(RopeSpec(1e4, 20, LinearScaling(4.0))), plain / 4
    )


def test_llama3_scaling_keeps_fast_and_slows_slow_frequencies() -> None:
    scaling = Llama3Scaling(8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
    plain = inverse_frequencies(RopeSpec(5e5, 64))
    scaled = inverse_frequencies(RopeSpec(5e5, 64, scaling))

    turns = 64 * plain / (2 * math.pi)
    assert torch.equal(scaled[turns >= 4], plain[turns >= 4])
    torch.testing.assert_close(scaled[turns <= 1], plain[turns <= 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()
