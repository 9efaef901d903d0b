"""Load a checkpoint's weights: read, cast, fuse and pack, one projection at a time.

Invariant: besides what is packed already, at most one layer's projection or experts are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.formats import WeightFormat
from kernels.layers import Linear
from kernels.ops import Operations
from model_svc.models.spec import AttentionSpec, DenseSpec, LayerSpec, MoeSpec
from model_svc.models.support import KEYS, require_supported
from model_svc.models.weights import (
    DecoderWeights,
    DenseWeights,
    LayerWeights,
    MoeWeights,
    NormWeights,
)
from model_svc.weights.checkpoint import Checkpoint
from model_svc.weights.safetensors_files import TensorFiles
from model_svc.weights.source_map import decoder_sources
from model_svc.weights.sources import (
    DenseSources,
    LayerSources,
    LinearSources,
    MoeSources,
    NormSources,
    WeightSource,
)


def load_weights(
    checkpoint: Checkpoint,
    ops: Operations,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None,
    device: torch.device | None = None,
) -> DecoderWeights:
    """Read all weights of a checkpoint.

    Args:
        checkpoint: to read from.
        ops: operations that they are packed for.
        dtype: of the loaded weights.
        progress: called after each tensor with the bytes read and the bytes of all.
        device: of the loaded weights; None for the CPU's memory.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, or not as config.json says, or the
            operations lack an option of the model.
    """
    spec, family = checkpoint.spec, checkpoint.family
    device = device or torch.device("cpu")
    require_supported(spec, ops, dtype, device, {**KEYS, **family.config_keys})
    sources = decoder_sources(spec, family.names)
    loader = _Loader(TensorFiles(checkpoint.folder, sources, progress), ops, dtype, device)
    embedding = loader.tensor(sources.embedding)
    positions = None if sources.positions is None else loader.tensor(sources.positions)
    final_norm = loader.norm(sources.final_norm)
    tied = sources.output_head == sources.embedding
    head = embedding if tied else loader.tensor(sources.output_head)
    return DecoderWeights(
        embedding=embedding,
        positions=positions,
        final_norm=final_norm,
        output_head=ops.pack_linear(head, None, spec.head_format),
        layers=[
            loader.layer(layer, own) for layer, own in zip(spec.layers, sources.layers, strict=True)
        ],
    )


@dataclass(frozen=True, slots=True)
class _Loader:
    """Reads tensors in the dtype wanted, and fuses them."""

    files: TensorFiles
    ops: Operations
    dtype: torch.dtype
    device: torch.device

    def layer(self, spec: LayerSpec, sources: LayerSources) -> LayerWeights:
        return LayerWeights(
            input_norm=self._optional_norm(sources.input_norm),
            qkv=self._linear(sources.qkv, spec.weight_format),
            qk_norm=self._head_norm(spec.attention, sources.qk_norm),
            sinks=self._sinks(sources.sinks),
            output=self._linear(sources.output, spec.weight_format),
            attention_output_norm=self._optional_norm(sources.attention_output_norm),
            mlp_norm=self._optional_norm(sources.mlp_norm),
            mlp=self._mlp(spec, sources.mlp),
            mlp_output_norm=self._optional_norm(sources.mlp_output_norm),
        )

    def tensor(self, source: WeightSource) -> torch.Tensor:
        out = self._empty(*source.part_shape)
        self.files.read(source, out)
        return out

    def norm(self, sources: NormSources) -> NormWeights:
        bias = None if sources.bias is None else self.tensor(sources.bias)
        return NormWeights(self.tensor(sources.weight), bias)

    def _optional_norm(self, sources: NormSources | None) -> NormWeights | None:
        return None if sources is None else self.norm(sources)

    def _linear(self, sources: LinearSources, format: WeightFormat | None) -> Linear:
        return self.ops.pack_linear(*self._fused_pair(sources), format)

    def _fused_pair(self, sources: LinearSources) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weight and bias of projections of one input."""
        return self._fused(sources.weights), self._fused(sources.biases) if sources.biases else None

    def _fused(self, sources: Sequence[WeightSource]) -> torch.Tensor:
        """Read parts one after the other into one tensor."""
        rows = [source.part_shape[0] for source in sources]
        out = self._empty(sum(rows), *sources[0].part_shape[1:])
        for source, part in zip(sources, out.split_with_sizes(rows), strict=True):
            self.files.read(source, part)
        return out

    def _head_norm(
        self, spec: AttentionSpec, sources: tuple[WeightSource, WeightSource] | None
    ) -> torch.Tensor | None:
        if sources is None:
            return None
        q, k = map(self.tensor, sources)
        return torch.cat((q.expand(spec.heads, -1), k.expand(spec.kv_heads, -1)))

    def _sinks(self, source: WeightSource | None) -> torch.Tensor | None:
        return None if source is None else self.tensor(source).float()

    def _mlp(
        self, layer: LayerSpec, sources: DenseSources | MoeSources
    ) -> DenseWeights | MoeWeights:
        spec, format = layer.mlp, layer.weight_format
        if isinstance(sources, MoeSources):
            assert isinstance(spec, MoeSpec)
            return self._moe(spec, sources, format)
        assert isinstance(spec, DenseSpec)
        pack = self.ops.pack_gated if spec.gated else self.ops.pack_activated
        up = pack(*self._fused_pair(sources.up), format, spec.activation)
        return DenseWeights(up, self._linear(sources.down, format))

    def _moe(self, spec: MoeSpec, sources: MoeSources, format: WeightFormat | None) -> MoeWeights:
        inner, hidden = sources.experts[0].gate.part_shape
        gate_up = self._empty(spec.experts, 2 * inner, hidden)
        down = self._empty(spec.experts, hidden, inner)
        for number, expert in enumerate(sources.experts):
            self.files.read(expert.gate, gate_up[number, :inner])
            self.files.read(expert.up, gate_up[number, inner:])
            self.files.read(expert.down, down[number])
        router = self.tensor(sources.router)
        return MoeWeights(self.ops.pack_experts(router, gate_up, down, spec.routing, format))

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)
