"""Cases of prefill and decode attention over slots strewn over the cache.

Invariant: FLOPs are those of the scores that causality leaves, bytes those of keys, values and
scales read once, queries and results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch

from bench.kernels.cases import peers
from bench.kernels.cases.case import OURS, Call, Case, Goal, Place, Trial
from kernels.attention_options import AttentionOptions, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.reference import attention as reference_attention
from kernels.triton.attention.decode import decode_attention
from kernels.triton.attention.prefill import plan_prefill, prefill_attention
from kernels.triton.attention.splits import plan_decode

_CHECKED = 16
"""Queries of the last sequence that are compared with the oracle."""
# Of int8 values and float16 scales, so that keys and values have a variance near one.
_SCALE = 1 / 73


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a step: equal sequences, each with the last `queries` of its `length` positions."""

    sequences: int
    length: int
    queries: int
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    int8: bool = False

    @property
    def scores(self) -> int:
        """Pairs of query and key that count, of one head."""
        first = self.length - self.queries + 1
        return self.sequences * self.queries * (first + self.length) // 2

    @property
    def moved_bytes(self) -> int:
        """Bytes of all operands and the result, once, and of the slot table."""
        keys = self.sequences * self.length
        rows = 2 * keys * self.kv_heads
        stored = rows * (self.head_dim + 2 if self.int8 else 2 * self.head_dim)
        return stored + 4 * keys + 4 * self.sequences * self.queries * self.heads * self.head_dim

    def launch(self) -> dict[str, int]:
        """Shape by which prefill and decode choose their launch."""
        group = self.heads // self.kv_heads
        return {"kv_bits": 8 if self.int8 else 16, "head_dim": self.head_dim, "group": group}


def _step(sizes: Sizes, place: Place) -> peers.Step:
    count, length = sizes.sequences, sizes.length
    slots = place.shuffled(count * length)
    chunks = AttentionChunks(
        slots.int().view(count, length),
        torch.arange(count, device=place.device),
        torch.arange(count + 1, device=place.device) * sizes.queries,
        torch.full((count,), length, device=place.device),
        count if sizes.queries == 1 else 0,
    )
    shape = (2, count * length, sizes.kv_heads, sizes.head_dim)
    scales = None
    if sizes.int8:
        caches = place.integers(-127, 128, *shape, dtype=torch.int8)
        scale = _SCALE * (1 + place.normal(*shape[:3], dtype=torch.float16) / 16)
        scales = KvScales(scale[0], scale[1])
    else:
        caches = place.normal(*shape)
    q = place.normal(count * sizes.queries, sizes.heads, sizes.head_dim)
    attention = AttentionShape(sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.head_dim**-0.5)
    return peers.Step(q, caches[0], caches[1], chunks, attention, scales)


def _ours(step: peers.Step) -> Call:
    q, k, v, out = step.q, step.k_cache, step.v_cache, torch.empty_like(step.q)
    if step.chunks.num_decodes:
        decode = plan_decode(step.chunks, step.shape, k.dtype)
        return lambda: step.rows(decode_attention(q, k, v, decode, step.scales, out))
    prefill = plan_prefill(step.chunks, q.shape[0], step.shape, k.dtype)
    return lambda: step.rows(prefill_attention(q, k, v, prefill, step.scales, out))


def _want(step: peers.Step) -> torch.Tensor:
    slots = step.chunks.slot_table[-1].long()
    k, v = step.k_cache[slots], step.v_cache[slots]
    if step.scales is not None:
        k = reference_attention.dequantise(k, step.scales.k[slots])
        v = reference_attention.dequantise(v, step.scales.v[slots])
    queries = step.rows(step.q)[-1, -_CHECKED:]
    return reference_attention.attend(queries.double(), k, v, step.shape.scale, AttentionOptions())


def _trial(sizes: Sizes, place: Place) -> Trial:
    step = _step(sizes, place)
    contenders = {name: partial(peer, step) for name, peer in peers.ATTENTION.items()}
    return Trial(
        {OURS: partial(_ours, step), **contenders},
        partial(_want, step),
        sizes.moved_bytes,
        4 * sizes.heads * sizes.head_dim * sizes.scores,
        part=lambda result: result[-1, -_CHECKED:],
    )


def _case(operation: str, shape: str, sizes: Sizes, goal: Goal | None = None) -> Case:
    queries = min(sizes.queries, 5)
    length = queries if sizes.queries == sizes.length else queries + 4
    tiny = replace(
        sizes, sequences=2, length=length, queries=queries, heads=4, kv_heads=2, head_dim=16
    )
    kernel = operation.split()[0]
    # Shared out alike whatever the cache holds.
    splits: dict[str, dict[str, int]] = {"decode_splits": {}} if sizes.queries == 1 else {}
    others = tuple(peers.ATTENTION)
    if sizes.queries not in (1, sizes.length):
        others = tuple(set(others) - peers.WHOLE_PROMPTS_ONLY)
    return Case(
        operation,
        shape,
        partial(_trial, sizes),
        partial(_trial, tiny),
        {kernel: sizes.launch(), **splits},
        goal or Goal(),
        tolerance=1e-2 if sizes.int8 else 4e-3,
        peers=() if sizes.int8 else tuple(sorted(others)),
    )


_INT8_GOAL = Goal(0.65, besides=", 1.5 times bfloat16's speed")

CASES = (
    _case("prefill_attention", "2 prompts of 8,192", Sizes(2, 8192, 8192), Goal(0.50)),
    _case("prefill_attention", "32 prompts of 1,024", Sizes(32, 1024, 1024)),
    _case("prefill_attention", "8 chunks of 1,024 behind 7,168", Sizes(8, 8192, 1024)),
    _case("prefill_attention int8", "2 prompts of 8,192", Sizes(2, 8192, 8192, int8=True)),
    _case("decode_attention", "32 sequences of 4,096", Sizes(32, 4096, 1), Goal(0.80)),
    _case("decode_attention", "256 sequences of 1,024", Sizes(256, 1024, 1)),
    _case("decode_attention", "1 sequence of 32,768", Sizes(1, 32_768, 1), Goal(0.50)),
    _case("decode_attention", "1 sequence of 100,000", Sizes(1, 100_000, 1), Goal(0.50)),
    _case(
        "decode_attention int8", "32 sequences of 4,096", Sizes(32, 4096, 1, int8=True), _INT8_GOAL
    ),
)
