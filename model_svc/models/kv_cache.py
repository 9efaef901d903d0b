"""Keys and values of every cached token, slot by slot, in the layout of each layer.

Invariant: slot `s` is row `s` of every layer's K and V tensor; the cache does not know which
sequence owns a slot, and a slot without an owner may hold anything.
"""

from __future__ import annotations

from typing import Any

import torch

from kernels.attention_options import Int8Rows
from model_svc.models.spec import DecoderSpec, KvLayout


class KvCache:
    """K and V of all layers; one slot holds one token in each.

    Attributes:
        slots: tokens that fit.
        device: of the tensors.
        k, v: [slots, heads, columns] tensors, one for each layer, in the layer's `KvLayout`;
            `Int8Rows` of int8. Where a layout shares rows, a layer's `v` is a view of its `k`.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        slots: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """Reserve memory; pages of a CPU's memory are taken as slots are first used."""
        self.slots = slots
        self.device = torch.device(device)
        self.bytes_per_slot = bytes_per_slot(spec, dtype)
        self.k: list[Any] = []
        self.v: list[Any] = []
        for layer in spec.layers:
            layout = layer.attention.kv_layout
            k = _rows(slots, layout.heads, layout.key_dim, dtype, device)
            self.k.append(k)
            self.v.append(
                _first_columns(k, layout.value_dim)
                if layout.shared
                else _rows(slots, layout.heads, layout.value_dim, dtype, device)
            )


def bytes_per_slot(spec: DecoderSpec, dtype: torch.dtype) -> int:
    """Bytes of one token's K and V in all layers together, scales of int8 included."""
    return sum(_token_bytes(layer.attention.kv_layout, dtype) for layer in spec.layers)


def _token_bytes(layout: KvLayout, dtype: torch.dtype) -> int:
    scale = torch.float16.itemsize if dtype == torch.int8 else 0
    return layout.heads * sum(columns * dtype.itemsize + scale for columns in layout.rows)


def _rows(
    slots: int, heads: int, columns: int, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor | Int8Rows:
    rows = torch.empty((slots, heads, columns), dtype=dtype, device=device)
    if dtype != torch.int8:
        return rows
    return Int8Rows(rows, torch.empty((slots, heads), dtype=torch.float16, device=device))


def _first_columns(k: torch.Tensor | Int8Rows, columns: int) -> torch.Tensor | Int8Rows:
    if isinstance(k, Int8Rows):
        return Int8Rows(k.rows[..., :columns], k.scales)
    return k[..., :columns]
