"""The compiled cache operations over caches of int8.

Invariant: a cache's rows and scales are written and read together.
"""

from __future__ import annotations

import torch

from kernels.attention_options import PLAIN, AttentionOptions, Int8Rows, KvScales
from kernels.c.attention import NativeAttention, Plan
from kernels.c.rows import NativeRows
from kernels.devices import UnsupportedDevice
from kernels.ops import AttentionChunks, AttentionShape


class Int8Caches:
    """Cache operations; see `Operations`."""

    def __init__(self, rows: NativeRows, attention: NativeAttention) -> None:
        """Compute by the operations that take rows and scales apart."""
        self._rows = rows
        self._attention = attention

    def store_kv(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        k_cache: Int8Rows,
        v_cache: Int8Rows,
    ) -> None:
        """See `Operations.store_kv`."""
        scales = KvScales(k_cache.scales, v_cache.scales)
        self._rows.store_kv_int8(k, v, slots, k_cache.rows, v_cache.rows, scales)

    def plan_attention(
        self,
        chunks: AttentionChunks,
        shape: AttentionShape,
        dtype: torch.dtype,
        options: AttentionOptions = PLAIN,
    ) -> Plan:
        """See `Operations.plan_attention`.

        Raises:
            UnsupportedDevice: there are options.
        """
        if options != PLAIN:
            raise UnsupportedDevice(
                f"attention over an int8 KV cache on a CPU has no {options.names()}: KV dtype auto"
            )
        return self._attention.plan_attention(chunks, shape, dtype)

    def attention(
        self, q: torch.Tensor, k_cache: Int8Rows, v_cache: Int8Rows, plan: Plan
    ) -> torch.Tensor:
        """See `Operations.attention`."""
        scales = KvScales(k_cache.scales, v_cache.scales)
        return self._attention.attention(q, k_cache.rows, v_cache.rows, plan, scales)
