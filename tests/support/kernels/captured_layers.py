"""A layer's computations to capture, from numbers that can be changed where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from support.kernels.attention_scenes import Scene, scene

from kernels.c.calls import CapturedCalls
from kernels.ops import Operations

EPS = 1e-5
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 20
ROTATED = HEADS + KV_HEADS
HIDDEN = (HEADS + 2 * KV_HEADS) * HEAD_DIM
VOCAB, CONTEXT = 40, 3000
# Tasks as uneven as they come: of one key, and of more than fit in a split of 512.
UNEVEN = [(1, 1), (1, 700), (1, 2), (1, 40), (9, 9), (30, 33)]
DECODES = 4


@dataclass(frozen=True)
class Step:
    """What a layer reads, and the caches that it writes."""

    attention: Scene
    ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    embedding: torch.Tensor
    residuals: torch.Tensor
    angles: torch.Tensor
    weight: torch.Tensor

    def caches(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.attention.k_cache, self.attention.v_cache

    def draw_again(self, seed: int) -> None:
        """Other tokens, in other slots, where the old ones were."""
        generator = torch.Generator().manual_seed(seed)
        self.ids.random_(VOCAB, generator=generator)
        self.positions.random_(CONTEXT, generator=generator)
        chunks = self.attention.chunks
        chunks.rows[:DECODES] = chunks.rows[:DECODES].flip(0)
        chunks.kv_lengths[:DECODES] = chunks.kv_lengths[:DECODES].flip(0)
        self.slots.copy_(self.slots.flip(0))


def step_of(dtype: torch.dtype, chunks: Sequence[tuple[int, int]] = UNEVEN) -> Step:
    torch.manual_seed(1)
    own = scene("cpu", chunks, (HEADS, KV_HEADS, HEAD_DIM), dtype, min(DECODES, len(chunks)))
    tokens, lengths = len(own.q), own.chunks.kv_lengths.tolist()
    slots = [
        own.chunks.slot_table[row, length - queries : length]
        for row, length, (queries, _) in zip(own.chunks.rows, lengths, chunks, strict=True)
    ]
    return Step(
        attention=own,
        ids=torch.randint(VOCAB, (tokens,)),
        positions=torch.randint(CONTEXT, (tokens,)),
        slots=torch.cat(slots).long(),
        embedding=torch.randn(VOCAB, HIDDEN).to(dtype),
        residuals=torch.randn(VOCAB, HEADS * HEAD_DIM).to(dtype),
        angles=torch.randn(CONTEXT, HEAD_DIM),
        weight=torch.randn(HIDDEN).to(dtype),
    )


def run_layer(ops: Operations, step: Step) -> torch.Tensor:
    """Every operation that is not a product."""
    of = step.attention
    plan = ops.plan_attention(of.chunks, of.shape, of.q.dtype)
    angles = ops.rope_angles(step.angles, step.positions)
    x, _ = ops.rms_norm(ops.embedding(step.ids, step.embedding), step.weight, EPS)
    heads = x.view(-1, HIDDEN // HEAD_DIM, HEAD_DIM)
    ops.norm_heads(heads[:, :ROTATED], step.weight.view(-1, HEAD_DIM)[:ROTATED], EPS)
    ops.rope(heads[:, :ROTATED], angles)
    q, k, v = heads.split_with_sizes((HEADS, KV_HEADS, KV_HEADS), dim=1)
    ops.store_kv(k, v, step.slots, *step.caches())
    x = ops.attention(q, *step.caches(), plan).flatten(1)
    residual = ops.embedding(step.ids, step.residuals)
    x, residual = ops.rms_norm(x, step.weight[: x.shape[1]], EPS, residual)
    both = ops.rms_norm(residual, step.weight[: x.shape[1]], EPS, x)
    return ops.silu_mul(both[0])


def captured(ops: Operations, compute: Callable[[], torch.Tensor]) -> CapturedCalls:
    taken = ops.capture(compute)
    assert taken is not None
    assert not ops.recorder.capturing
    return taken
