"""Hold the keys and values of every cached token, slot by slot.

Invariant: slot `s` is row `s` of every layer's K and V tensor; which sequence a slot belongs to
is not known here, and slots that belong to none may hold anything.
"""

from __future__ import annotations

import torch

from model_svc.models.spec import DecoderSpec


class KvCache:
    """K and V of all layers; one slot holds one token in each.

    Attributes:
        slots: how many tokens fit.
        device: where they are.
        k, v: one [slots, kv_heads, head_dim] tensor per layer.
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
        # Not filled: pages of a CPU's memory are then taken only as slots are first used.
        self.k = [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)]
        self.v = [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)]


def bytes_per_slot(spec: DecoderSpec, dtype: torch.dtype) -> int:
    """Bytes that one token's K and V take in all layers together."""
    return 2 * spec.layers * spec.kv_heads * spec.head_dim * dtype.itemsize
