"""Rotary embedding against the oracle: part of a head, slices of fused tensors."""

from __future__ import annotations

import pytest
import torch
from support.kernels.checks import DTYPES, assert_near

from kernels.reference import rows as reference_rows
from kernels.reference.operations import reference
from kernels.triton.configs import Config, forced
from kernels.triton.rows.rope import rope

POSITIONS = [49, 0, 7, 7]


def inputs(device: str, rotary_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(50, rotary_dim, device=device), torch.tensor(POSITIONS, device=device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "rotary_dim"),
    [(4, 2, 64, 64), (17, 1, 16, 16), (3, 3, 20, 20), (2, 1, 80, 32), (2, 1, 40, 22), (1, 1, 2, 2)],
)
def test_rope_turns_queries_and_keys_and_nothing_else(
    device: str,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_dim: int,
    rotary_dim: int,
) -> None:
    table, positions = inputs(device, rotary_dim)
    fused = torch.randn(4, heads + 2 * kv_heads, head_dim, device=device).to(dtype)
    q, k, v = fused.split([heads, kv_heads, kv_heads], dim=1)
    want_q, want_k = (
        reference_rows.rope_partly(part.double(), table.double(), positions) for part in (q, k)
    )
    before = fused.clone()

    rope(q, k, table, positions)

    assert_near(q[..., :rotary_dim], want_q[..., :rotary_dim])
    assert_near(k[..., :rotary_dim], want_k[..., :rotary_dim])
    assert torch.equal(fused[..., rotary_dim:], before[..., rotary_dim:])
    assert torch.equal(v, before[:, heads + kv_heads :])


def test_rope_of_one_tensor_is_the_operation_that_models_call(device: str) -> None:
    table, positions = inputs(device, 24)
    heads = torch.randn(4, 5, 24, device=device)
    want = heads.double()
    reference.rope(want, reference.rope_angles(table, positions))

    rope(heads, None, table, positions)

    assert_near(heads, want)


@pytest.mark.parametrize("heads", [3, 4, 5])
def test_rope_of_more_heads_than_a_tile(device: str, heads: int) -> None:
    table, positions = inputs(device, 16)
    q, k = torch.randn(4, heads, 16, device=device), torch.randn(4, 2 * heads, 16, device=device)
    want_q, want_k = (
        reference_rows.rope_partly(part.double(), table.double(), positions) for part in (q, k)
    )

    with forced("rope", Config({"BLOCK_HEADS": 4}, num_warps=1)):
        rope(q, k, table, positions)

    assert_near(q, want_q)
    assert_near(k, want_k)


def test_rope_takes_any_strides(device: str) -> None:
    table, positions = inputs(device, 16)
    wide = torch.randn(50, 40, device=device)
    q = torch.randn(16, 3, 4, device=device).permute(2, 1, 0)
    k = torch.randn(3, 4, 16, device=device).transpose(0, 1)
    wide[:, 8:24] = table
    want_q, want_k = (
        reference_rows.rope_partly(part.double(), table.double(), positions) for part in (q, k)
    )

    rope(q, k, wide[:, 8:24], positions)

    assert_near(q, want_q)
    assert_near(k, want_k)


def test_rope_of_no_tokens(device: str) -> None:
    table, positions = inputs(device, 16)

    rope(torch.empty(0, 2, 16, device=device), None, table, positions[:0])


def test_rope_refuses_what_does_not_belong_together(device: str) -> None:
    table, positions = inputs(device, 16)
    q = torch.zeros(4, 2, 16, device=device)

    with pytest.raises(ValueError, match="table of 16"):
        rope(q[..., :8], None, table, positions)
    with pytest.raises(ValueError, match="table of 15"):
        rope(q, None, table[:, :15], positions)
    with pytest.raises(ValueError, match="k "):
        rope(q, q[:3], table, positions)
    with pytest.raises(ValueError, match="positions"):
        rope(q, None, table, positions[:3])
