"""Attention of one step in C, planned once for all of its layers.

Invariant: a plan keeps alive all that its packed pointers lead to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.attention_options import PLAIN, AttentionOptions, KvScales
from kernels.c.arguments import CODES, INT8, LAYER, STEP
from kernels.c.calls import Calls
from kernels.cpu import attention as cpu_attention
from kernels.ops import AttentionChunks, AttentionShape

_NO_SCALES = (0, 0, 0, 0)

GROWTH = 2
"""Factor of a captured step's workspace over the need of its sequences at first."""


@dataclass(frozen=True, slots=True)
class NativePlan:
    """A step's arguments of the C function, the same in every layer."""

    chunks: AttentionChunks
    shape: AttentionShape
    dtype: torch.dtype
    workspace: torch.Tensor
    packed: bytes
    """The step's part of the arguments."""


Plan = NativePlan | cpu_attention.AttentionPlan
"""The latter where attention has options."""


class NativeAttention:
    """Attention; see `Operations`."""

    def __init__(self, calls: Calls) -> None:
        """Compute by `calls`."""
        self._calls = calls
        self._measure_plan = calls.library.function("plan_attention")
        self._plan = calls.function("plan_attention")
        self._attention = calls.function("attention")

    def plan_attention(
        self,
        chunks: AttentionChunks,
        shape: AttentionShape,
        dtype: torch.dtype,
        options: AttentionOptions = PLAIN,
    ) -> Plan:
        """See `Operations.plan_attention`; attention with options is PyTorch's.

        Raises:
            ValueError: dtypes or strides that a step does not have.
        """
        if options != PLAIN:
            self._calls.compute_otherwise()
            return cpu_attention.plan_attention(chunks, shape, dtype, options)
        step = (
            *(CODES[dtype], torch.get_num_threads(), *_of_chunks(chunks)),
            *(shape.heads, shape.kv_heads, shape.head_dim, shape.scale),
        )
        nothing = bytes(LAYER.size)
        size = self._measure_plan(STEP.pack(*step, 0, 0) + nothing)
        if self._calls.capturing:
            size *= GROWTH
        workspace = self._calls.empty((size,), torch.uint8)
        packed = STEP.pack(*step, workspace.data_ptr(), size)
        self._plan(packed + nothing)
        return NativePlan(chunks, shape, dtype, workspace, packed)

    def attention(
        self,
        q: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        plan: Plan,
        scales: KvScales | None = None,
    ) -> torch.Tensor:
        """See `Operations.attention`; with `scales`, the caches are int8.

        Raises:
            ValueError: shapes, strides or types disagree.
        """
        if not isinstance(plan, NativePlan):
            assert scales is None
            self._calls.compute_otherwise()
            return cpu_attention.attention(q, k_cache, v_cache, plan)
        shape, strides = plan.shape, k_cache.stride()
        q_strides, stored = q.stride(), k_cache.dtype
        known = (
            q.dtype == plan.dtype
            and q.shape[1:] == (shape.heads, shape.head_dim)
            and q_strides[2] == strides[2] == 1
            and k_cache.shape == v_cache.shape
            and k_cache.shape[1:] == (shape.kv_heads, shape.head_dim)
            and v_cache.stride() == strides
            and stored == v_cache.dtype == (q.dtype if scales is None else torch.int8)
        )
        if not known:
            raise ValueError(
                f"q {tuple(q.shape)} {q.dtype}, caches {tuple(k_cache.shape)} by {strides} "
                f"{stored}: expected {plan.dtype} rows of {shape}"
            )
        out = self._calls.empty(q.shape, q.dtype)
        layer = LAYER.pack(
            *(q.data_ptr(), q_strides[0], q_strides[1], k_cache.data_ptr(), v_cache.data_ptr()),
            *(CODES[q.dtype] if scales is None else INT8, strides[0], strides[1]),
            *(_NO_SCALES if scales is None else _scales(scales, k_cache)),
            out.data_ptr(),
        )
        self._attention(plan.packed + layer)
        return out


def _of_chunks(chunks: AttentionChunks) -> tuple[int, ...]:
    """Fill in the chunks of the C structure.

    Raises:
        ValueError: dtypes or strides that a step does not have.
    """
    table, numbers = chunks.slot_table, (chunks.rows, chunks.q_starts, chunks.kv_lengths)
    if table.dtype != torch.int32 or table.stride(1) != 1:
        raise ValueError(f"slot table of {table.dtype} by {table.stride()}: expected int32 rows")
    if any(part.dtype != torch.int64 or not part.is_contiguous() for part in numbers):
        raise ValueError("rows, starts and lengths of chunks: expected contiguous int64")
    pointers = (part.data_ptr() for part in numbers)
    return (
        *(table.data_ptr(), table.stride(0)),
        *pointers,
        *(len(chunks.rows), chunks.num_decodes),
    )


def _scales(scales: KvScales, k_cache: torch.Tensor) -> tuple[int, ...]:
    """Fill in the scales of the C structure.

    Raises:
        ValueError: they are not those of the cache.
    """
    for scale in (scales.k, scales.v):
        if scale.shape != k_cache.shape[:2] or scale.dtype != torch.float16:
            raise ValueError(f"scales {tuple(scale.shape)} {scale.dtype}: expected one per row")
    if scales.k.stride() != scales.v.stride():
        raise ValueError(f"scales by {scales.k.stride()} and {scales.v.stride()}: expected equal")
    return (scales.k.data_ptr(), scales.v.data_ptr(), *scales.k.stride())
