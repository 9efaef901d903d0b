"""The compiled operations over caches of int8.

Invariant: a cache's rows and scales are written and read together.
"""

from __future__ import annotations

import torch

from kernels.attention_options import Int8Rows, KvScales
from kernels.c.attention import NativePlan
from kernels.c.library import chosen
from kernels.c.operations import NativeOperations
from kernels.devices import UnsupportedDevice
from kernels.ops import Operations


class Int8CacheOperations(NativeOperations):
    """The same operations, but that caches are `Int8Rows`; see `Operations`."""

    def store_kv(  # type: ignore[override]  # of caches of one kind, throughout
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        k_cache: Int8Rows,
        v_cache: Int8Rows,
    ) -> None:
        """See `Operations.store_kv`."""
        scales = KvScales(k_cache.scales, v_cache.scales)
        self.store_kv_int8(k, v, slots, k_cache.rows, v_cache.rows, scales)

    def attention(  # type: ignore[override]  # of caches of one kind, throughout
        self, q: torch.Tensor, k_cache: Int8Rows, v_cache: Int8Rows, plan: NativePlan
    ) -> torch.Tensor:
        """See `Operations.attention`."""
        scales = KvScales(k_cache.scales, v_cache.scales)
        return super().attention(q, k_cache.rows, v_cache.rows, plan, scales)


def serving_int8_caches(dtype: torch.dtype) -> Operations:
    """The set that serves a model in `dtype` on this machine.

    Raises:
        UnsupportedDevice: there is none; the message says what to do.
    """
    if dtype == torch.float32:
        raise UnsupportedDevice(
            "float32 is computed exactly, which an int8 KV cache is not: use --dtype bfloat16, "
            "or KV dtype auto"
        )
    choice = chosen()
    if choice.library is None:
        raise UnsupportedDevice(f"an int8 KV cache needs native operations: {choice.why_not}")
    return Int8CacheOperations(choice.library)
