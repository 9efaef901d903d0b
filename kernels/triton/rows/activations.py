"""Gated activations: one half of each row, activated, times the other half.

A program owns some columns of one row. Invariant: computed in float32 and rounded once.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl

from kernels.triton.configs import Config, choose

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_TWO_SQRT_2_OVER_PI = tl.constexpr(1.5957691216057308)


def silu_mul(gate_up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """`silu(gate) * up`, row by row.

    Args:
        gate_up: [tokens, 2 * intermediate] bfloat16, float16 or float32, any strides, gate before
            up.
        out: [tokens, intermediate], any strides, no part of `gate_up`; None for a new one.

    Returns:
        `out`.

    Raises:
        ValueError: shapes disagree.

    Source: Shazeer 2020, section 2.
    """
    config = choose("silu_mul", columns=triton.next_power_of_2(gate_up.shape[1] // 2))
    return _gate(gate_up, out, "silu", config)


def gelu_mul(
    gate_up: torch.Tensor,
    approximate: Literal["tanh", "none"] = "tanh",
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """`gelu(gate) * up`, row by row.

    Args:
        gate_up: as in `silu_mul`.
        approximate: "tanh" for the polynomial within a tanh, "none" for the error function.
        out: as in `silu_mul`.

    Returns:
        `out`.

    Raises:
        ValueError: shapes disagree.

    Source: Hendrycks & Gimpel 2016, section 2; Shazeer 2020, section 2.
    """
    config = choose("gelu_mul", columns=triton.next_power_of_2(gate_up.shape[1] // 2))
    return _gate(gate_up, out, "gelu_tanh" if approximate == "tanh" else "gelu", config)


def _gate(
    gate_up: torch.Tensor, out: torch.Tensor | None, activation: str, config: Config
) -> torch.Tensor:
    tokens, both = gate_up.shape
    if out is None:
        out = torch.empty((tokens, both // 2), dtype=gate_up.dtype, device=gate_up.device)
    if both % 2 or out.shape != (tokens, both // 2):
        raise ValueError(f"gate and up {tuple(gate_up.shape)}, out {tuple(out.shape)}")
    if tokens:
        _gate_kernel[(tokens, triton.cdiv(both // 2, config.tiles["BLOCK"]))](
            gate_up, *gate_up.stride(),
            out, *out.stride(),
            COLUMNS=both // 2, ACTIVATION=activation, **config.options(),
        )  # fmt: skip
    return out


@triton.jit
def _gate_kernel(
    gate_up_ptr, stride_t, stride_c,
    out_ptr, out_stride_t, out_stride_c,
    COLUMNS: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # int64: tokens * columns passes 2**31 at 74,899 tokens of 2 * 14,336.
    token = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = column < COLUMNS
    row_ptr = gate_up_ptr + token * stride_t
    gate = tl.load(row_ptr + column * stride_c, mask=inside, other=0.0).to(tl.float32)
    up_ptr = row_ptr + (column + COLUMNS) * stride_c
    up = tl.load(up_ptr, mask=inside, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        gate *= tl.sigmoid(gate)
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh(u)) / 2 is the sigmoid of 2 u.
        gate *= tl.sigmoid(_TWO_SQRT_2_OVER_PI * (gate + 0.044715 * gate * gate * gate))
    else:
        gate *= 0.5 + 0.5 * tl.math.erf(gate * _SQRT_HALF)
    gated = (gate * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * out_stride_t + column * out_stride_c, gated, mask=inside)
