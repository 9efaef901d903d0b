"""What the machine code of cache writes must be like."""

from __future__ import annotations

import torch
from support.kernels.ahead_of_time import Expected, Needs, meta

from kernels.attention_options import KvScales
from kernels.triton.attention.store_kv import store_kv, store_kv_int8

# Of K and V; an int8 row is half as wide as it was.
_WIDE = {"_store_kv_kernel": Needs(128, wide_loads=2, wide_stores=2)}
_NARROWED = {"_store_kv_kernel": Needs(128, wide_loads=2)}
_SLOTS = 2**22


def _store(kv_heads: int, head_dim: int, dtype: torch.dtype = torch.bfloat16) -> None:
    qkv = meta(512, 6 * kv_heads, head_dim, dtype=dtype)
    k, v = qkv[:, 4 * kv_heads : 5 * kv_heads], qkv[:, 5 * kv_heads :]
    cache = meta(_SLOTS, kv_heads, head_dim, dtype=dtype)
    store_kv(k, v, meta(512, dtype=torch.int64), cache, cache)


def _store_int8(kv_heads: int, head_dim: int) -> None:
    qkv = meta(512, 6 * kv_heads, head_dim)
    k, v = qkv[:, 4 * kv_heads : 5 * kv_heads], qkv[:, 5 * kv_heads :]
    cache = meta(_SLOTS, kv_heads, head_dim, dtype=torch.int8)
    scale = meta(_SLOTS, kv_heads, dtype=torch.float16)
    store_kv_int8(k, v, meta(512, dtype=torch.int64), cache, cache, KvScales(scale, scale))


EXPECTED = [
    *(
        Expected(f"store_kv {h}x{d}", lambda h=h, d=d: _store(h, d), _WIDE, elsewhere=d == 128)
        for h, d in ((8, 64), (8, 128), (1, 256))
    ),
    *(
        Expected(
            f"store_kv_int8 {h}x{d}",
            lambda h=h, d=d: _store_int8(h, d),
            _NARROWED,
            elsewhere=d == 128,
        )
        for h, d in ((8, 64), (8, 128), (1, 256))
    ),
    Expected("store_kv float32", lambda: _store(8, 128, torch.float32), _WIDE),
    Expected("store_kv ragged", lambda: _store(3, 80), _WIDE),
]
