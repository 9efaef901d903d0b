"""Others' ways to compute what our kernels do, as far as they are installed.

Invariant: a peer gets its operands in the layout that it likes best, made before it is timed; what
is absent or refuses raises, and only its own measurement is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.kernels.cases.case import Call
from kernels.attention_options import KvScales
from kernels.ops import AttentionChunks, AttentionShape

_WORKSPACE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Step:
    """Operands of attention: sequences alike, with as many queries each."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    chunks: AttentionChunks
    shape: AttentionShape
    scales: KvScales | None

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return self.chunks.kv_lengths.shape[0]

    def rows(self, tokens: torch.Tensor) -> torch.Tensor:
        """[tokens, …] as [sequences, queries, …]."""
        return tokens.view(self.sequences, -1, *tokens.shape[1:])

    def dense(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, [sequences, heads, positions, head_dim], contiguous."""
        slots = self.chunks.slot_table.long()
        q = self.rows(self.q).transpose(1, 2).contiguous()
        k, v = (cache[slots].transpose(1, 2).contiguous() for cache in (self.k_cache, self.v_cache))
        return q, k, v


def _sdpa(backend: SDPBackend, step: Step) -> Call:
    q, k, v = step.dense()
    # Causality of queries and keys alike in number; one query sees every key anyway.
    causal = q.shape[2] > 1

    def call() -> torch.Tensor:
        with sdpa_kernel(backend):
            out = functional.scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=step.shape.scale, enable_gqa=True
            )
        return out.transpose(1, 2)

    return call


def _flex(step: Step) -> Call:
    q, k, v = step.dense()
    queries, length = q.shape[2], k.shape[2]
    mask = None
    if queries > 1:
        mask = create_block_mask(
            lambda batch, head, query, key: query + (length - queries) >= key,
            None,
            None,
            queries,
            length,
            device=q.device,
        )
    compiled: Callable[..., torch.Tensor] = torch.compile(flex_attention, dynamic=False)

    def call() -> torch.Tensor:
        out = compiled(q, k, v, block_mask=mask, scale=step.shape.scale, enable_gqa=True)
        return out.transpose(1, 2)

    return call


def _flashinfer(step: Step) -> Call:
    """With pages of one token, as our caches have them."""
    flashinfer = import_module("flashinfer")
    chunks, shape, device = step.chunks, step.shape, step.q.device
    workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
    length = chunks.slot_table.shape[1]
    starts = length * torch.arange(step.sequences + 1, dtype=torch.int32, device=device)
    last = torch.ones(step.sequences, dtype=torch.int32, device=device)
    pages = (starts, chunks.slot_table.flatten(), last)
    sizes = (shape.heads, shape.kv_heads, shape.head_dim, 1)
    kinds = {"q_data_type": step.q.dtype, "kv_data_type": step.k_cache.dtype}
    wrapper: Any
    if chunks.num_decodes:
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, "NHD", use_tensor_cores=True
        )
        wrapper.plan(*pages, *sizes, sm_scale=shape.scale, **kinds)
    else:
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD")
        wrapper.plan(
            chunks.q_starts.int(), *pages, *sizes, causal=True, sm_scale=shape.scale, **kinds
        )
    caches = (step.k_cache.unsqueeze(1), step.v_cache.unsqueeze(1))

    def call() -> torch.Tensor:
        return step.rows(wrapper.run(step.q, caches))

    return call


def flashinfer_sampling(logits: torch.Tensor, temperature: float, k: int, p: float) -> Call:
    """Top-k, then top-p, then a draw; the temperature is a step of its own, which is timed."""
    sample: Callable[..., torch.Tensor] = import_module(
        "flashinfer.sampling"
    ).top_k_top_p_sampling_from_logits
    return lambda: sample(logits / temperature, k, p, filter_apply_order="top_k_first")


ATTENTION: Mapping[str, Callable[[Step], Call]] = {
    "SDPA flash": partial(_sdpa, SDPBackend.FLASH_ATTENTION),
    "SDPA cuDNN": partial(_sdpa, SDPBackend.CUDNN_ATTENTION),
    "FlexAttention": _flex,
    "flashinfer": _flashinfer,
}
WHOLE_PROMPTS_ONLY = frozenset({"SDPA flash", "SDPA cuDNN"})
"""Peers that align the last query with the last key only where both are alike in number."""
