"""Load a checkpoint's weights: read, cast, fuse and pack, one projection at a time.

Invariant: besides what is packed already, at most one layer's projection or experts are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from kernels.layers import Linear
from kernels.ops import Operations
from model_svc.models.decoder import DecoderWeights, DenseWeights, LayerWeights, MoeWeights
from model_svc.models.family import WeightNames
from model_svc.models.spec import DecoderSpec, MoeSpec
from model_svc.models.tensors import Shapes, tensor_shapes
from model_svc.weights.checkpoint import Checkpoint
from model_svc.weights.safetensors_files import TensorFiles


def load_weights(
    checkpoint: Checkpoint,
    ops: Operations,
    dtype: torch.dtype,
    progress: Callable[[int, int], None] = lambda done_bytes, total_bytes: None,
    device: torch.device | None = None,
) -> DecoderWeights:
    """Read all weights of a checkpoint.

    Args:
        checkpoint: whose.
        ops: the operations they are packed for.
        dtype: what they are cast to.
        progress: called after each tensor with the bytes read and the bytes of all.
        device: where they go; None for the CPU's memory.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, or not as config.json says.
    """
    spec, names = checkpoint.spec, checkpoint.family.names
    shapes = tensor_shapes(spec, names)
    loader = _Loader(TensorFiles(checkpoint.folder, shapes, progress), shapes, ops, dtype, device)
    embedding = loader.tensor(names.embedding)
    final_norm = loader.tensor(names.final_norm)
    head = embedding if spec.tied_embeddings else loader.tensor(names.output_head)
    return DecoderWeights(
        embedding=embedding,
        final_norm=final_norm,
        output_head=ops.pack_linear(head, None),
        layers=[loader.layer(spec, names, number) for number in range(spec.layers)],
    )


_Pack = Callable[[torch.Tensor, torch.Tensor | None], Linear]


@dataclass(frozen=True, slots=True)
class _Loader:
    """Reads tensors in the dtype wanted, and fuses them."""

    files: TensorFiles
    shapes: Shapes
    ops: Operations
    dtype: torch.dtype
    device: torch.device | None

    def layer(self, spec: DecoderSpec, names: WeightNames, number: int) -> LayerWeights:
        def at(name: str) -> str:
            return name.replace("{layer}", str(number))

        return LayerWeights(
            input_norm=self.tensor(at(names.input_norm)),
            qkv=self.linear([at(names.q), at(names.k), at(names.v)]),
            head_norm=self._head_norm(spec, at(names.q_norm), at(names.k_norm)),
            output=self.linear([at(names.output)]),
            mlp_norm=self.tensor(at(names.mlp_norm)),
            mlp=self._moe(spec.mlp, names, at)
            if isinstance(spec.mlp, MoeSpec)
            else DenseWeights(
                gated=self.linear([at(names.gate), at(names.up)], self.ops.pack_gated),
                down=self.linear([at(names.down)]),
            ),
        )

    def tensor(self, name: str) -> torch.Tensor:
        out = torch.empty(self.shapes[name], dtype=self.dtype, device=self.device)
        self.files.read(name, out)
        return out

    def linear(self, names: Sequence[str], pack: _Pack | None = None) -> Linear:
        """Fuse projections of the same input, one after the other, and pack them."""
        weight = self._fused([f"{name}.weight" for name in names])
        biased = f"{names[0]}.bias" in self.shapes
        bias = self._fused([f"{name}.bias" for name in names]) if biased else None
        return (pack or self.ops.pack_linear)(weight, bias)

    def _fused(self, names: Sequence[str]) -> torch.Tensor:
        rows = [self.shapes[name][0] for name in names]
        out = torch.empty(
            sum(rows), *self.shapes[names[0]][1:], dtype=self.dtype, device=self.device
        )
        for name, part in zip(names, out.split_with_sizes(rows), strict=True):
            self.files.read(name, part)
        return out

    def _head_norm(self, spec: DecoderSpec, q_norm: str, k_norm: str) -> torch.Tensor | None:
        if not spec.head_norm:
            return None
        q, k = self.tensor(q_norm), self.tensor(k_norm)
        return torch.cat((q.expand(spec.heads, -1), k.expand(spec.kv_heads, -1)))

    def _moe(self, spec: MoeSpec, names: WeightNames, at: Callable[[str], str]) -> MoeWeights:
        inner, hidden = self.shapes[_expert(at(names.expert_gate), 0)]
        gate_up = torch.empty(spec.experts, 2 * inner, hidden, dtype=self.dtype, device=self.device)
        down = torch.empty(spec.experts, hidden, inner, dtype=self.dtype, device=self.device)
        for number in range(spec.experts):
            self.files.read(_expert(at(names.expert_gate), number), gate_up[number, :inner])
            self.files.read(_expert(at(names.expert_up), number), gate_up[number, inner:])
            self.files.read(_expert(at(names.expert_down), number), down[number])
        router = self.tensor(f"{at(names.router)}.weight")
        return MoeWeights(self.ops.pack_experts(router, gate_up, down, spec.routing))


def _expert(name: str, number: int) -> str:
    return f"{name.replace('{expert}', str(number))}.weight"
