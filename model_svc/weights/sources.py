"""Sources of a decoder's weights: tensor, slice, order of rows, and the dimension to shard.

Invariant: every tensor that is read from a checkpoint is listed here with its shape, so that a
checkpoint is refused before anything is read from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass

import torch


@dataclass(frozen=True, slots=True)
class RowRuns:
    """Rows of a fused tensor: `count` runs of `length` rows, each `stride` after the last."""

    start: int
    length: int
    stride: int
    count: int = 1

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of `tensor`, a view where there is one run."""
        if self.count == 1:
            return tensor[self.start : self.start + self.length]
        runs = tensor.view(self.count, self.stride, *tensor.shape[1:])
        return runs[:, self.start : self.start + self.length].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class RotaryPairs:
    """Heads with rotated rows paired with their neighbours."""

    head_dim: int
    rotary_dim: int

    def halves(self, rows: torch.Tensor) -> torch.Tensor:
        """Order the rows of every head so that the first half is paired with the second."""
        heads = rows.reshape(-1, self.head_dim, *rows.shape[1:])
        rotated = heads[:, : self.rotary_dim]
        parts = (rotated[:, 0::2], rotated[:, 1::2], heads[:, self.rotary_dim :])
        return torch.cat(parts, dim=1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class WeightSource:
    """One weight, or the part of a fused one, in a checkpoint; steps apply in this order."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor, as it is stored."""
    index: int | None = None
    """Number in a stack along the first dimension."""
    transpose: bool = False
    slice: RowRuns | None = None
    """None: all rows."""
    interleave: RotaryPairs | None = None
    """None: rows keep their order."""
    shard_dim: int | None = None
    """Dimension that tensor-parallel ranks divide; None: each has the whole."""
    scale: float = 1.0
    offset: float = 0.0
    """Added after the factor."""

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the part."""
        own = self.shape if self.index is None else self.shape[1:]
        rows, *columns = reversed(own) if self.transpose else own
        return (rows if self.slice is None else self.slice.length * self.slice.count, *columns)

    def part(self, stored: torch.Tensor, rank: int = 0, ranks: int = 1) -> torch.Tensor:
        """The part of a stored tensor, or one rank's shard of it.

        Args:
            stored: the whole tensor, of `shape`.
            rank: number of the shard.
            ranks: number of shards; divides the part evenly.

        Returns:
            Its rows, a view where neither runs nor pairs of rows have to be brought together; in
            float32 where numbers change.
        """
        own = stored if self.index is None else stored[self.index]
        if self.transpose:
            own = own.T
        if self.slice is not None:
            own = self.slice.of(own)
        if self.interleave is not None:
            own = self.interleave.halves(own)
        if self.shard_dim is not None and ranks > 1:
            own = own.chunk(ranks, self.shard_dim)[rank]
        if self.scale != 1.0 or self.offset != 0.0:
            own = own.float() * self.scale + self.offset
        return own


@dataclass(frozen=True, slots=True)
class LinearSources:
    """Projections of one input, laid one after the other."""

    weights: tuple[WeightSource, ...]
    biases: tuple[WeightSource, ...]
    """Empty where there are none."""


@dataclass(frozen=True, slots=True)
class NormSources:
    """Weight and bias of a norm."""

    weight: WeightSource
    bias: WeightSource | None


@dataclass(frozen=True, slots=True)
class DenseSources:
    """An MLP."""

    up: LinearSources
    """Gate and up, or up alone."""
    down: LinearSources


@dataclass(frozen=True, slots=True)
class ExpertSources:
    """One expert."""

    gate: WeightSource
    up: WeightSource
    down: WeightSource


@dataclass(frozen=True, slots=True)
class MoeSources:
    """A router and its experts."""

    router: WeightSource
    experts: tuple[ExpertSources, ...]


@dataclass(frozen=True, slots=True)
class LayerSources:
    """One layer; None for the norms that it has not."""

    input_norm: NormSources | None
    mlp_norm: NormSources | None
    qkv: LinearSources
    output: LinearSources
    qk_norm: tuple[WeightSource, WeightSource] | None
    """Of query heads and of key heads."""
    sinks: WeightSource | None
    attention_output_norm: NormSources | None
    mlp: DenseSources | MoeSources
    mlp_output_norm: NormSources | None


@dataclass(frozen=True, slots=True)
class DecoderSources:
    """All weights of a decoder."""

    embedding: WeightSource
    positions: WeightSource | None
    final_norm: NormSources
    output_head: WeightSource
    layers: tuple[LayerSources, ...]

    def all(self) -> tuple[WeightSource, ...]:
        """Every source once, in the order of the attributes."""
        return tuple(dict.fromkeys(_sources(self)))


def tensor_shapes(sources: DecoderSources) -> dict[str, tuple[int, ...]]:
    """Shape of every stored tensor by its name, in the order of first use."""
    return {source.name: source.shape for source in sources.all()}


def _sources(value: object) -> Iterator[WeightSource]:
    if isinstance(value, WeightSource):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _sources(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _sources(getattr(value, field.name))
