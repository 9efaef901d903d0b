"""Hold the keys and values of every cached token, slot by slot.

Invariant: slot `s` is row `s` of every layer's K and V tensor; which sequence a slot belongs to
is not known here, and slots that belong to none may hold anything.
"""

from __future__ import annotations

from typing import Any

import torch

from kernels.attention_options import Int8Rows
from model_svc.models.spec import DecoderSpec


class KvCache:
    """K and V of all layers; one slot holds one token in each.

    Attributes:
        slots: how many tokens fit.
        device: where they are.
        k, v: one [slots, kv_heads, head_dim] tensor per layer; `Int8Rows` of int8.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        slots: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (slots, spec.kv_heads, spec.head_dim)
        self.slots = slots
        self.device = torch.device(device)
        self.bytes_per_slot = bytes_per_slot(spec, dtype)

        def rows() -> Any:
            # Not filled: pages of a CPU's memory are then taken only as slots are first used.
            held = torch.empty(shape, dtype=dtype, device=device)
            if dtype != torch.int8:
                return held
            return Int8Rows(held, torch.empty(shape[:2], dtype=torch.float16, device=device))

        self.k: list[Any] = [rows() for _ in range(spec.layers)]
        self.v: list[Any] = [rows() for _ in range(spec.layers)]


def bytes_per_slot(spec: DecoderSpec, dtype: torch.dtype) -> int:
    """Bytes that one token's K and V take in all layers together, scales of int8 included."""
    scale = torch.float16.itemsize if dtype == torch.int8 else 0
    return 2 * spec.layers * spec.kv_heads * (spec.head_dim * dtype.itemsize + scale)
