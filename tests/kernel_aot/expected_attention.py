"""What the machine code of attention must be like."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.attention_options import AttentionOptions, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.triton.attention.decode import decode_attention
from kernels.triton.attention.prefill import plan_prefill, prefill_attention
from kernels.triton.attention.splits import plan_decode

_PLAIN = AttentionOptions()
_ALL = AttentionOptions(30.0, meta(32, dtype=torch.float32), 1024, meta(32, dtype=torch.float32))
_OPTIONS = {
    "soft cap": AttentionOptions(soft_cap=30.0),
    "alibi": AttentionOptions(alibi_slopes=meta(32, dtype=torch.float32)),
    "window": AttentionOptions(window=1024),
    "sinks": AttentionOptions(sinks=meta(32, dtype=torch.float32)),
}
_SLOTS = 2**22

# Gathered keys and values arrive by cp.async behind the products of the block before them.
_PREFILL = {"_tiles_kernel": Needs(64), "_prefill_kernel": Needs(wgmma=2, async_copies=2)}
# An item's product has 16 rows, too few for wgmma; two programs fit a processor at least.
_DECODE = {
    "_splits_kernel": Needs(128),
    "_items_kernel": Needs(255, shared_bytes=113 * 1024, async_copies=2),
    "_merge_kernel": Needs(128, wide_loads=1),
}


def _attend(
    head_dim: int,
    kv_heads: int = 8,
    heads: int = 32,
    dtype: torch.dtype = torch.bfloat16,
    int8: bool = False,
    options: AttentionOptions = _PLAIN,
    decodes: int = 0,
) -> None:
    count = decodes or 4
    chunks = AttentionChunks(
        meta(64, 8192, dtype=torch.int32),
        meta(count, dtype=torch.int64),
        meta(count + 1, dtype=torch.int64),
        meta(count, dtype=torch.int64),
        decodes,
    )
    shape = AttentionShape(heads, kv_heads, head_dim, head_dim**-0.5)
    stored = torch.int8 if int8 else dtype
    cache = meta(_SLOTS, kv_heads, head_dim, dtype=stored)
    scale = meta(_SLOTS, kv_heads, dtype=torch.float16)
    scales = KvScales(scale, scale) if int8 else None
    q = meta(512, heads + 2 * kv_heads, head_dim, dtype=dtype)[:, :heads]
    if decodes:
        decode_attention(q, cache, cache, plan_decode(chunks, shape, stored, options), scales)
    else:
        prefill_attention(
            q, cache, cache, plan_prefill(chunks, 512, shape, stored, options), scales
        )


def _both(name: str, elsewhere: bool = False, **sizes: object) -> list[Expected]:
    """Prefill and decode of one kind."""
    return [
        Expected(f"prefill {name}", lambda: _attend(**sizes), _PREFILL, elsewhere),
        Expected(f"decode {name}", lambda: _attend(**sizes, decodes=64), _DECODE, elsewhere),
    ]


def _any(needs: Mapping[str, Needs]) -> dict[str, Needs]:
    """Nothing but what every kernel must keep to."""
    return dict.fromkeys(needs, Needs())


EXPECTED = [
    *(
        each
        for dim in (64, 128, 256)
        for int8 in (False, True)
        for each in _both(f"{'int8 ' * int8}{dim}", dim == 128, head_dim=dim, int8=int8)
    ),
    *_both("all options", elsewhere=True, head_dim=128, options=_ALL),
    *_both("float16", head_dim=128, dtype=torch.float16),
    *_both("of one head for all", head_dim=128, kv_heads=1),
    *_both("of a head for each", head_dim=128, kv_heads=32),
    *_both("padded head_dim 80", head_dim=80),
    *_both("padded head_dim 96", head_dim=96),
    *(
        each
        for name, options in _OPTIONS.items()
        for each in _both(name, head_dim=128, options=options)
    ),
    Expected("prefill float32", lambda: _attend(128, dtype=torch.float32), _any(_PREFILL)),
    Expected("decode float32", lambda: _attend(128, dtype=torch.float32, decodes=4), _any(_DECODE)),
]
