"""The cache operations over caches of int8.

Invariant: a cache's rows and scales are written and read together.
"""

from __future__ import annotations

import torch

from kernels.attention_options import PLAIN, AttentionOptions, Int8Rows, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.triton.attention import plan as plain
from kernels.triton.attention.plan import AttentionPlan
from kernels.triton.attention.store_kv import store_kv_int8


def store_kv(
    k: torch.Tensor, v: torch.Tensor, slots: torch.Tensor, k_cache: Int8Rows, v_cache: Int8Rows
) -> None:
    """See `Operations.store_kv`."""
    scales = KvScales(k_cache.scales, v_cache.scales)
    store_kv_int8(k, v, slots, k_cache.rows, v_cache.rows, scales)


def plan_attention(
    chunks: AttentionChunks,
    shape: AttentionShape,
    dtype: torch.dtype,
    options: AttentionOptions = PLAIN,
) -> AttentionPlan:
    """See `Operations.plan_attention`."""
    return plain.plan_attention(chunks, shape, torch.int8, options)


def attention(
    q: torch.Tensor, k_cache: Int8Rows, v_cache: Int8Rows, plan: AttentionPlan
) -> torch.Tensor:
    """See `Operations.attention`."""
    scales = KvScales(k_cache.scales, v_cache.scales)
    return plain.attention(q, k_cache.rows, v_cache.rows, plan, scales)
