"""Cases of norms, rotary embedding, gated activations and cache writes: bytes moved, little else.

Invariant: what is computed is rounded to bfloat16, of operands in bfloat16.
"""

from __future__ import annotations

from functools import partial

import torch

from bench.kernels.cases.case import OURS, Case, Goal, Place, Trial
from kernels.attention_options import KvScales
from kernels.reference import attention as reference_attention
from kernels.reference import rows as reference_rows
from kernels.reference.operations import reference
from kernels.triton.attention.store_kv import store_kv, store_kv_int8
from kernels.triton.rows.activations import gelu_mul, silu_mul
from kernels.triton.rows.layer_norm import layer_norm
from kernels.triton.rows.rms_norm import norm_heads, rms_norm
from kernels.triton.rows.rope import rope

_BYTES = 2  # of bfloat16
_EPS = 1e-5
_HEADS, _KV_HEADS = 32, 8
_GOAL = Goal(0.85)


def _rms_norm(tokens: int, hidden: int, place: Place) -> Trial:
    x, residual = place.normal(tokens, hidden), place.normal(tokens, hidden)
    weight = 1 + place.normal(hidden) / 8
    return Trial(
        {OURS: lambda: lambda: rms_norm(x, weight, _EPS, residual)[0]},
        lambda: reference.rms_norm(x.double(), weight.double(), _EPS, residual.double())[0],
        4 * _BYTES * tokens * hidden,
    )


def _layer_norm(tokens: int, hidden: int, place: Place) -> Trial:
    x, residual = place.normal(tokens, hidden), place.normal(tokens, hidden)
    weight, bias = 1 + place.normal(hidden) / 8, place.normal(hidden) / 8
    return Trial(
        {OURS: lambda: lambda: layer_norm(x, weight, bias, _EPS, residual)[0]},
        lambda: reference_rows.layer_norm(
            x.double(), weight.double(), bias.double(), _EPS, residual.double()
        )[0],
        4 * _BYTES * tokens * hidden,
    )


def _norm_heads(tokens: int, head_dim: int, place: Place) -> Trial:
    heads = place.normal(tokens, _HEADS + 2 * _KV_HEADS, head_dim)[:, : _HEADS + _KV_HEADS]
    # Only signs: heads are normed again and again, and would vanish where weights are below 1.
    weight = place.normal(_HEADS + _KV_HEADS, head_dim).sign()

    def ours() -> torch.Tensor:
        norm_heads(heads, weight, _EPS)
        return heads

    def want() -> torch.Tensor:
        normed = heads.double()
        reference.norm_heads(normed, weight.double(), _EPS)
        return normed

    return Trial({OURS: lambda: ours}, want, 2 * _BYTES * heads.numel())


def _rope(tokens: int, head_dim: int, place: Place) -> Trial:
    qkv = place.normal(tokens, _HEADS + 2 * _KV_HEADS, head_dim)
    turning = qkv[:, : _HEADS + _KV_HEADS]
    q, k = turning[:, :_HEADS], turning[:, _HEADS:]
    positions = place.shuffled(2 * tokens)[:tokens]
    powers = torch.arange(head_dim // 2, device=place.device) / (head_dim // 2)
    angles = torch.arange(2 * tokens, device=place.device)[:, None] * 10_000.0**-powers
    table = torch.cat((angles.cos(), angles.sin()), dim=1)

    def ours() -> torch.Tensor:
        rope(q, k, table, positions)
        return turning

    return Trial(
        {OURS: lambda: ours},
        lambda: reference_rows.rope_partly(turning.double(), table, positions),
        2 * _BYTES * turning.numel() + 4 * tokens * head_dim,
    )


def _silu_mul(tokens: int, intermediate: int, place: Place) -> Trial:
    gate_up, out = place.normal(tokens, 2 * intermediate), place.normal(tokens, intermediate)
    return Trial(
        {OURS: lambda: lambda: silu_mul(gate_up, out)},
        lambda: reference.silu_mul(gate_up.double()),
        3 * _BYTES * tokens * intermediate,
    )


def _gelu_mul(tokens: int, intermediate: int, place: Place) -> Trial:
    gate_up, out = place.normal(tokens, 2 * intermediate), place.normal(tokens, intermediate)
    return Trial(
        {OURS: lambda: lambda: gelu_mul(gate_up, "tanh", out)},
        lambda: reference_rows.gelu_mul(gate_up.double(), "tanh"),
        3 * _BYTES * tokens * intermediate,
    )


def _new_keys(tokens: int, head_dim: int, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
    """K and V as a fused projection gives them, and slots strewn over twice as many."""
    qkv = place.normal(tokens, _HEADS + 2 * _KV_HEADS, head_dim)
    kv = qkv[:, _HEADS:].view(tokens, 2, _KV_HEADS, head_dim)
    return kv, place.shuffled(2 * tokens)[:tokens]


def _store_kv(tokens: int, head_dim: int, place: Place) -> Trial:
    kv, slots = _new_keys(tokens, head_dim, place)
    caches = place.normal(2, 2 * tokens, _KV_HEADS, head_dim)

    def ours() -> torch.Tensor:
        store_kv(kv[:, 0], kv[:, 1], slots, caches[0], caches[1])
        return caches

    return Trial(
        {OURS: lambda: ours},
        lambda: kv.transpose(0, 1).double(),
        2 * _BYTES * kv.numel() + slots.itemsize * tokens,
        part=lambda stored: stored[:, slots],
    )


def _store_kv_int8(tokens: int, head_dim: int, place: Place) -> Trial:
    kv, slots = _new_keys(tokens, head_dim, place)
    shape = (2, 2 * tokens, _KV_HEADS)
    caches = place.integers(-127, 128, *shape, head_dim, dtype=torch.int8)
    scales = place.normal(*shape, dtype=torch.float16)

    def ours() -> torch.Tensor:
        both = KvScales(scales[0], scales[1])
        store_kv_int8(kv[:, 0], kv[:, 1], slots, caches[0], caches[1], both)
        return caches

    return Trial(
        {OURS: lambda: ours},
        lambda: kv.transpose(0, 1).double(),
        (_BYTES + 1) * kv.numel() + 2 * 2 * tokens * _KV_HEADS + slots.itemsize * tokens,
        part=lambda stored: reference_attention.dequantise(stored[:, slots], scales[:, slots]),
    )


_HEAD = {"head_dim": 128, "heads": _HEADS + _KV_HEADS}

CASES = (
    Case(
        "store_kv",
        "16,384 tokens, 8 x 128",
        partial(_store_kv, 16_384, 128),
        partial(_store_kv, 5, 32),
        {"store_kv": {"kv_bits": 16, "head_dim": 128}},
        _GOAL,
        tolerance=0.0,
    ),
    Case(
        "store_kv int8",
        "16,384 tokens, 8 x 128",
        partial(_store_kv_int8, 16_384, 128),
        partial(_store_kv_int8, 5, 32),
        {"store_kv": {"kv_bits": 8, "head_dim": 128}},
        _GOAL,
        tolerance=3e-2,
    ),
    Case(
        "rms_norm, residual",
        "8,192 x 4,096",
        partial(_rms_norm, 8192, 4096),
        partial(_rms_norm, 3, 64),
        {"rms_norm": {"hidden": 4096}},
        _GOAL,
    ),
    Case(
        "layer_norm, residual",
        "8,192 x 4,096",
        partial(_layer_norm, 8192, 4096),
        partial(_layer_norm, 3, 64),
        {"layer_norm": {"hidden": 4096}},
        _GOAL,
    ),
    Case(
        "norm_heads",
        "8,192 tokens, 40 x 128",
        partial(_norm_heads, 8192, 128),
        partial(_norm_heads, 3, 32),
        {"norm_heads": _HEAD},
        _GOAL,
    ),
    Case(
        "rope",
        "8,192 tokens, 40 x 128",
        partial(_rope, 8192, 128),
        partial(_rope, 3, 32),
        {"rope": {"rotary_dim": 128, "heads": _HEADS + _KV_HEADS}},
        _GOAL,
    ),
    Case(
        "silu_mul",
        "8,192 x 14,336",
        partial(_silu_mul, 8192, 14_336),
        partial(_silu_mul, 3, 64),
        {"silu_mul": {"columns": 16_384}},
        _GOAL,
    ),
    Case(
        "gelu_mul",
        "8,192 x 14,336",
        partial(_gelu_mul, 8192, 14_336),
        partial(_gelu_mul, 3, 64),
        {"gelu_mul": {"columns": 16_384}},
        _GOAL,
    ),
)
