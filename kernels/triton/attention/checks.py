"""Checks of attention's arguments, before a kernel reads memory by them.

Invariant: nothing here waits for the device; slots and lengths are trusted.
"""

from __future__ import annotations

import torch

from kernels.attention_options import AttentionOptions, KvScales
from kernels.ops import AttentionShape


def check_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    scales: KvScales | None,
    shape: AttentionShape,
    options: AttentionOptions,
) -> None:
    """Refuse what the kernels would misread.

    Raises:
        ValueError: shapes, strides or types disagree.
    """
    if q.shape[1:] != (shape.heads, shape.head_dim):
        raise ValueError(f"q {tuple(q.shape)}: expected [tokens, {shape.heads}, {shape.head_dim}]")
    for name, per_head in (("ALiBi slopes", options.alibi_slopes), ("sinks", options.sinks)):
        if per_head is not None and per_head.shape != (shape.heads,):
            raise ValueError(f"{name} {tuple(per_head.shape)}: expected [{shape.heads}]")
    if k_cache.shape[1:] != (shape.kv_heads, shape.head_dim):
        expected = f"[slots, {shape.kv_heads}, {shape.head_dim}]"
        raise ValueError(f"k_cache {tuple(k_cache.shape)}: expected {expected}")
    check_caches(k_cache, v_cache, scales, q.dtype)


def check_caches(
    k_cache: torch.Tensor, v_cache: torch.Tensor, scales: KvScales | None, dtype: torch.dtype
) -> None:
    """Refuse caches that are not alike, or not of `dtype` (of int8, if there are scales).

    Raises:
        ValueError: shapes, strides or types disagree.
    """
    if v_cache.shape != k_cache.shape or v_cache.stride() != k_cache.stride():
        raise ValueError(
            f"k_cache {tuple(k_cache.shape)} by {k_cache.stride()} and "
            f"v_cache {tuple(v_cache.shape)} by {v_cache.stride()}: expected the same"
        )
    if k_cache.stride(-1) != 1:
        raise ValueError(f"caches by {k_cache.stride()}: expected rows to be contiguous")
    stored = dtype if scales is None else torch.int8
    if k_cache.dtype != stored or v_cache.dtype != stored:
        raise ValueError(f"caches of {k_cache.dtype} and {v_cache.dtype}: expected {stored}")
    if scales is None:
        return
    for name, scale in (("k", scales.k), ("v", scales.v)):
        if scale.shape != k_cache.shape[:2] or scale.dtype != torch.float16:
            raise ValueError(
                f"scales of {name} {tuple(scale.shape)} {scale.dtype}: "
                f"expected {tuple(k_cache.shape[:2])} {torch.float16}"
            )
    if scales.k.stride() != scales.v.stride():
        raise ValueError(f"scales by {scales.k.stride()} and {scales.v.stride()}: expected equal")
