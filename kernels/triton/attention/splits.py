"""Division of the keys of a step's decodes among programs, computed on the device.

An *item* is a run of one sequence's positions, the work of one program for each key/value head. All
items of a step are about as long, whether one sequence gives them all or each gives one, so that
every processor is busy to the end. How many may be needed is known without the lengths: grids and
memory stay the same from step to step, as the replay of a CUDA graph demands.

Invariant: the items of a sequence are consecutive and cover its positions, those that its window
shows, once.
"""

# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kernels.attention_options import AttentionOptions
from kernels.ops import AttentionChunks, AttentionShape
from kernels.triton.configs import Config, choose

# Of a device that is not there, as when code is only compiled or interpreted.
_PROCESSORS = 132


@dataclass(frozen=True, slots=True)
class DecodeBuffers:
    """Memory that one step after another may use, in one place for as long as a graph lives."""

    work: torch.Tensor
    """[4, items] int32: an item's sequence, -1 for no item, that sequence's row in the slot table,
    the item's first position and the one past its last."""
    spans: torch.Tensor
    """[2, sequences] int32: a sequence's first item and how many it has."""
    partial: torch.Tensor
    """[items, heads, head_dim] float32: attention over an item's positions alone."""
    log_sums: torch.Tensor
    """[items, heads] float32: log 2 of an item's sum of exponentials, -inf for none."""

    @classmethod
    def allocate(
        cls, sequences: int, shape: AttentionShape, device: torch.device, splits: int | None = None
    ) -> DecodeBuffers:
        """For up to so many sequences at once.

        Args:
            sequences: at most.
            shape: of attention.
            device: of all tensors.
            splits: items beyond one per sequence; None for enough to fill the device.
        """
        if splits is None:
            programs = choose("decode_splits").tiles["PROGRAMS"] * _processors(device)
            splits = triton.cdiv(programs, shape.kv_heads * head_blocks(shape)[1])
        items = sequences + splits
        return cls(
            torch.empty((4, items), dtype=torch.int32, device=device),
            torch.empty((2, sequences), dtype=torch.int32, device=device),
            torch.empty((items, shape.heads, shape.head_dim), device=device),
            torch.empty((items, shape.heads), device=device),
        )

    @property
    def splits(self) -> int:
        """Items beyond one per sequence."""
        return self.work.shape[1] - self.spans.shape[1]


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """A step's items; the same in every layer with these options."""

    chunks: AttentionChunks
    shape: AttentionShape
    options: AttentionOptions
    config: Config
    buffers: DecodeBuffers

    @property
    def items(self) -> int:
        """Items that these sequences have at most."""
        return self.chunks.num_decodes + self.buffers.splits


def head_blocks(shape: AttentionShape) -> tuple[int, int]:
    """Rows that a program gives to query heads of a group, and how many programs a group needs."""
    group = shape.heads // shape.kv_heads
    # A product has at least 16 rows; more than 64 would crowd out keys in flight.
    rows = min(max(triton.next_power_of_2(group), 16), 64)
    return rows, triton.cdiv(group, rows)


def plan_decode(
    chunks: AttentionChunks,
    shape: AttentionShape,
    kv_dtype: torch.dtype,
    options: AttentionOptions | None = None,
    buffers: DecodeBuffers | None = None,
) -> DecodePlan:
    """Split the first `chunks.num_decodes` sequences into items, on the device.

    Args:
        chunks: of the step; a sequence of length 0 has no items.
        shape: of attention.
        kv_dtype: of the caches.
        options: of the layers that will use the plan; None for none.
        buffers: memory to use; None for new.

    Raises:
        ValueError: the buffers are for fewer sequences or another shape.
    """
    options = options or AttentionOptions()
    sequences = chunks.num_decodes
    if buffers is None:
        buffers = DecodeBuffers.allocate(sequences, shape, chunks.kv_lengths.device)
    most, sizes = buffers.spans.shape[1], tuple(buffers.partial.shape[1:])
    if sequences > most or sizes != (shape.heads, shape.head_dim):
        raise ValueError(
            f"buffers for {most} sequences of {sizes}: "
            f"expected {sequences} of {(shape.heads, shape.head_dim)}"
        )
    config = choose(
        "decode_attention",
        kv_bits=8 * kv_dtype.itemsize,
        head_dim=triton.next_power_of_2(shape.head_dim),
        group=shape.heads // shape.kv_heads,
    )
    plan = DecodePlan(chunks, shape, options, config, buffers)
    if sequences:
        _splits_kernel[(sequences,)](
            chunks.rows, chunks.kv_lengths, sequences, buffers.splits,
            buffers.work, buffers.work.stride(0), plan.items, buffers.spans, most,
            WINDOW=options.window, SHORTEST=choose("decode_splits").tiles["SHORTEST"],
            BLOCK_N=config.tiles["BLOCK_N"], BLOCK=256, num_warps=4,
        )  # fmt: skip
    return plan


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


@triton.jit(
    do_not_specialize=["sequences", "splits", "work_stride", "items", "spans_stride"],
    do_not_specialize_on_alignment=["rows_ptr", "lengths_ptr", "work_ptr", "spans_ptr"],
)
def _splits_kernel(
    rows_ptr, lengths_ptr, sequences, splits,
    work_ptr, work_stride, items, spans_ptr, spans_stride,
    WINDOW: tl.constexpr, SHORTEST: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program `i` writes the items of sequence `i`; the last one also those that are none."""
    own = tl.program_id(0)
    total = tl.zeros([], tl.int64)
    for start in range(0, sequences, BLOCK):
        total += tl.sum(_visible(lengths_ptr, start, sequences, WINDOW, BLOCK).to(tl.int64))
    # Rounded up, so that all sequences together need at most one item each and `splits` more.
    split = tl.maximum((total + splits - 1) // splits, SHORTEST).to(tl.int32)
    before, used, length = 0, 0, 0
    for start in range(0, sequences, BLOCK):
        sequence = start + tl.arange(0, BLOCK)
        visible = _visible(lengths_ptr, start, sequences, WINDOW, BLOCK)
        needed = (visible + split - 1) // split
        before += tl.sum(tl.where(sequence < own, needed, 0))
        length += tl.sum(tl.where(sequence == own, visible, 0))
        used += tl.sum(needed)
    count = (length + split - 1) // split
    tl.store(spans_ptr + own, before)
    tl.store(spans_ptr + spans_stride + own, count)

    row = tl.load(rows_ptr + own).to(tl.int32)
    end = tl.load(lengths_ptr + own).to(tl.int32)
    each = (length + tl.maximum(count, 1) - 1) // tl.maximum(count, 1)
    each = (each + BLOCK_N - 1) // BLOCK_N * BLOCK_N
    for start in range(0, count, BLOCK):
        item = start + tl.arange(0, BLOCK)
        to_ptr = work_ptr + before + item
        first = end - length + item * each
        tl.store(to_ptr, own, mask=item < count)
        tl.store(to_ptr + work_stride, row, mask=item < count)
        tl.store(to_ptr + 2 * work_stride, first, mask=item < count)
        tl.store(to_ptr + 3 * work_stride, tl.minimum(first + each, end), mask=item < count)
    if own == sequences - 1:
        for start in range(used, items, BLOCK):
            item = start + tl.arange(0, BLOCK)
            tl.store(work_ptr + item, -1, mask=item < items)


@triton.jit
def _visible(lengths_ptr, start, sequences, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    """Number of positions that each of some sequences sees, int32."""
    sequence = start + tl.arange(0, BLOCK)
    lengths = tl.load(lengths_ptr + sequence, mask=sequence < sequences, other=0).to(tl.int32)
    return tl.minimum(lengths, WINDOW) if WINDOW > 0 else lengths
