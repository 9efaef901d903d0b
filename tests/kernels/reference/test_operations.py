"""The oracle itself, against definitions written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.ops import AttentionChunks, AttentionShape, Routing
from kernels.reference.operations import reference


def test_rms_norm_divides_by_the_root_mean_square_of_the_sum() -> None:
    x, residual = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])

    normed, total = reference.rms_norm(x, torch.tensor([1.0, 2.0]), 0.0, residual)

    rms = math.sqrt((9 + 16) / 2)
    torch.testing.assert_close(normed, torch.tensor([[3 / rms, 8 / rms]]))
    torch.testing.assert_close(total, torch.tensor([[3.0, 4.0]]))


def test_rope_rotates_pairs_of_the_two_halves() -> None:
    angle = 0.3
    table = torch.tensor([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])
    heads = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])

    reference.rope(heads, reference.rope_angles(table, torch.tensor([1])))

    turned = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    torch.testing.assert_close(heads, torch.tensor([turned]))


def test_attention_is_blind_to_the_future_and_to_other_slots() -> None:
    shape = AttentionShape(heads=2, kv_heads=1, head_dim=4, scale=0.5)
    k_cache, v_cache = torch.full((2, 8, 1, 4), float("nan"))
    slots = [6, 1, 3]
    k_cache[slots], v_cache[slots] = torch.randn(2, 3, 1, 4)
    chunks = AttentionChunks(
        slot_table=torch.tensor([slots], dtype=torch.int32),
        rows=torch.tensor([0]),
        q_starts=torch.tensor([0, 2]),
        kv_lengths=torch.tensor([3]),
        num_decodes=0,
    )
    q = torch.randn(2, 2, 4)

    plan = reference.plan_attention(chunks, shape, torch.float32)
    out = reference.attention(q, k_cache, v_cache, plan)

    for query, seen in ((0, 2), (1, 3)):
        for head in range(2):
            weights = torch.stack(
                [q[query, head] @ k_cache[slot, 0] * 0.5 for slot in slots[:seen]]
            ).softmax(0)
            want = sum(w * v_cache[slot, 0] for w, slot in zip(weights, slots, strict=False))
            torch.testing.assert_close(out[query, head], want)


@pytest.mark.parametrize("renormalise", [True, False])
def test_moe_weighs_the_likeliest_experts(renormalise: bool) -> None:
    experts, hidden = 3, 4
    gate_up, down = torch.randn(experts, 10, hidden), torch.randn(experts, hidden, 5)
    x, router = torch.tensor([[1.0, 0.0, 2.0, 1.0]]), torch.zeros(experts, hidden)
    router[:, 0] = torch.tensor([1.0, 3.0, 2.0])

    packed = reference.pack_experts(router, gate_up, down, Routing(2, renormalise))
    out = packed(x)

    weights = router[:, 0].softmax(0)
    total = weights[1] + weights[2] if renormalise else 1.0
    want = torch.zeros(hidden)
    for expert in (1, 2):
        gate, up = (gate_up[expert] @ x[0]).chunk(2)
        want += weights[expert] / total * (down[expert] @ (gate * gate.sigmoid() * up))
    torch.testing.assert_close(out[0], want)
