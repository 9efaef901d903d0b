"""Names and shapes of the tensors that a decoder needs from a checkpoint.

Invariant: every tensor that `model_svc.weights.loader` reads is listed here, so that a checkpoint
is refused before anything is read from it.
"""

from __future__ import annotations

from model_svc.models.family import WeightNames
from model_svc.models.spec import DecoderSpec, DenseSpec, MoeSpec

Shapes = dict[str, tuple[int, ...]]


def tensor_shapes(spec: DecoderSpec, names: WeightNames) -> Shapes:
    """List all tensors of the model, in the order in which they are read."""
    shapes: Shapes = {
        names.embedding: (spec.vocab_size, spec.hidden),
        names.final_norm: (spec.hidden,),
    }
    if not spec.tied_embeddings:
        shapes[names.output_head] = (spec.vocab_size, spec.hidden)
    layer = _attention(spec, names)
    layer |= _dense(spec, names) if isinstance(spec.mlp, DenseSpec) else _moe(spec, names)
    for number in range(spec.layers):
        shapes |= {name.replace("{layer}", str(number)): shape for name, shape in layer.items()}
    return shapes


def _linear(name: str, outputs: int, inputs: int, bias: bool) -> Shapes:
    weight: Shapes = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight


def _attention(spec: DecoderSpec, names: WeightNames) -> Shapes:
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes: Shapes = {names.input_norm: (spec.hidden,), names.mlp_norm: (spec.hidden,)}
    shapes |= _linear(names.q, q, spec.hidden, spec.qkv_bias)
    shapes |= _linear(names.k, kv, spec.hidden, spec.qkv_bias)
    shapes |= _linear(names.v, kv, spec.hidden, spec.qkv_bias)
    shapes |= _linear(names.output, spec.hidden, q, spec.output_bias)
    if spec.head_norm:
        shapes |= {names.q_norm: (spec.head_dim,), names.k_norm: (spec.head_dim,)}
    return shapes


def _dense(spec: DecoderSpec, names: WeightNames) -> Shapes:
    assert isinstance(spec.mlp, DenseSpec)
    inner, bias = spec.mlp.intermediate, spec.mlp.bias
    shapes = _linear(names.gate, inner, spec.hidden, bias)
    shapes |= _linear(names.up, inner, spec.hidden, bias)
    return shapes | _linear(names.down, spec.hidden, inner, bias)


def _moe(spec: DecoderSpec, names: WeightNames) -> Shapes:
    assert isinstance(spec.mlp, MoeSpec)
    inner = spec.mlp.intermediate
    shapes = _linear(names.router, spec.mlp.experts, spec.hidden, bias=False)
    for number in range(spec.mlp.experts):
        expert = str(number)
        for name, rows, columns in (
            (names.expert_gate, inner, spec.hidden),
            (names.expert_up, inner, spec.hidden),
            (names.expert_down, spec.hidden, inner),
        ):
            shapes |= _linear(name.replace("{expert}", expert), rows, columns, bias=False)
    return shapes
