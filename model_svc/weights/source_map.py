"""Sources of all weights of a decoder, from its spec and the names of its family.

Invariant: pure; the same spec and names give the same sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model_svc.models.spec import (
    AttentionSpec,
    DecoderSpec,
    DenseSpec,
    LayerSpec,
    MoeSpec,
    NormSpec,
)
from model_svc.models.weight_names import FusedQkv, GateUp, WeightNames
from model_svc.weights.sources import (
    DecoderSources,
    DenseSources,
    ExpertSources,
    LayerSources,
    LinearSources,
    MoeSources,
    NormSources,
    RotaryPairs,
    RowRuns,
    WeightSource,
)


def decoder_sources(spec: DecoderSpec, names: WeightNames) -> DecoderSources:
    """List the sources of all weights; a tied output head has the embedding's."""
    embedding, head = f"{names.embedding}.weight", f"{names.output_head}.weight"
    table = WeightSource(embedding, (spec.vocab_size, spec.hidden), shard_dim=0)
    return DecoderSources(
        embedding=replace(table, scale=spec.embedding_scale),
        positions=_positions(spec, names),
        final_norm=_norm(spec.final_norm, spec.hidden, names.final_norm, names.norm_offset),
        output_head=replace(
            table, name=embedding if spec.tied_embeddings else head, scale=spec.logit_scale
        ),
        layers=tuple(
            _LayerMap(names, number, spec.hidden).sources(layer)
            for number, layer in enumerate(spec.layers)
        ),
    )


def _positions(spec: DecoderSpec, names: WeightNames) -> WeightSource | None:
    skipped = spec.learned_positions
    if skipped is None:
        return None
    rows = skipped + spec.context_length
    wanted = RowRuns(skipped, spec.context_length, stride=rows)
    return WeightSource(f"{names.positions}.weight", (rows, spec.hidden), slice=wanted)


def _norm(norm: NormSpec, columns: int, name: str, offset: float) -> NormSources:
    weight = WeightSource(f"{name}.weight", (columns,), offset=offset)
    bias = WeightSource(f"{name}.bias", (columns,)) if norm.bias else None
    return NormSources(weight, bias)


def _bias(weight: WeightSource, outputs: int) -> WeightSource:
    """Source of the bias beside a weight; ranks that divide inputs have the whole of it."""
    return replace(
        weight,
        name=f"{weight.name.removesuffix('.weight')}.bias",
        shape=(outputs,),
        transpose=False,
        shard_dim=0 if weight.shard_dim == 0 else None,
    )


@dataclass(frozen=True, slots=True)
class _LayerMap:
    """Sources of one layer."""

    names: WeightNames
    number: int
    hidden: int

    def sources(self, layer: LayerSpec) -> LayerSources:
        names, attention, mlp = self.names, layer.attention, layer.mlp
        output = self._weight(
            names.output, self.hidden, attention.heads * attention.head_dim, shard_dim=1
        )
        return LayerSources(
            input_norm=self._norm(layer.input_norm, names.input_norm),
            mlp_norm=self._norm(layer.mlp_norm, names.mlp_norm),
            qkv=self._qkv(attention),
            output=self._linear([output], attention.output_bias, layer.output_scale),
            qk_norm=self._qk_norm(attention),
            sinks=WeightSource(self._at(names.sinks), (attention.heads,), shard_dim=0)
            if attention.sinks
            else None,
            attention_output_norm=self._norm(
                layer.attention_output_norm, names.attention_output_norm
            ),
            mlp=self._dense(mlp, layer.output_scale)
            if isinstance(mlp, DenseSpec)
            else self._moe(mlp, layer.output_scale),
            mlp_output_norm=self._norm(layer.mlp_output_norm, names.mlp_output_norm),
        )

    def _at(self, name: str) -> str:
        return name.replace("{layer}", str(self.number))

    def _weight(self, name: str, outputs: int, inputs: int, shard_dim: int) -> WeightSource:
        turned = self.names.transposed
        shape = (inputs, outputs) if turned else (outputs, inputs)
        return WeightSource(
            f"{self._at(name)}.weight", shape, transpose=turned, shard_dim=shard_dim
        )

    def _linear(
        self, weights: Sequence[WeightSource], bias: bool, scale: float = 1.0
    ) -> LinearSources:
        scaled = tuple(replace(weight, scale=scale) for weight in weights)
        outputs = [weight.shape[-1 if weight.transpose else 0] for weight in weights]
        biases = map(_bias, scaled, outputs) if bias else ()
        return LinearSources(scaled, tuple(biases))

    def _norm(self, norm: NormSpec | None, name: str) -> NormSources | None:
        if norm is None:
            return None
        return _norm(norm, self.hidden, self._at(name), self.names.norm_offset)

    def _qkv(self, attention: AttentionSpec) -> LinearSources:
        names, kv = self.names, attention.kv_heads * attention.head_dim
        widths = {"q": attention.heads * attention.head_dim, "k": kv, "v": kv}
        if names.qkv is None:
            weights = {
                part: self._weight(getattr(names, part), width, self.hidden, shard_dim=0)
                for part, width in widths.items()
            }
        else:
            fused = self._weight(names.q, sum(widths.values()), self.hidden, shard_dim=0)
            runs = _runs(names.qkv, widths, attention.kv_heads)
            weights = {part: replace(fused, slice=runs[part]) for part in widths}
        pairs = self._pairs(attention)
        rotated = [replace(weights[part], interleave=pairs) for part in "qk"]
        return self._linear([*rotated, weights["v"]], attention.qkv_bias)

    def _pairs(self, attention: AttentionSpec) -> RotaryPairs | None:
        if attention.rope is None or not self.names.interleaved_rope:
            return None
        return RotaryPairs(attention.head_dim, attention.rope.rotary_dim)

    def _qk_norm(self, attention: AttentionSpec) -> tuple[WeightSource, WeightSource] | None:
        if attention.qk_norm is None:
            return None
        q, k = (
            WeightSource(
                f"{self._at(name)}.weight",
                (attention.head_dim,),
                interleave=self._pairs(attention),
                offset=self.names.norm_offset,
            )
            for name in (self.names.q_norm, self.names.k_norm)
        )
        return q, k

    def _dense(self, mlp: DenseSpec, scale: float) -> DenseSources:
        names, inner = self.names, mlp.intermediate
        up = (
            self._gate_up(names.gate, names.up, inner)
            if mlp.gated
            else [self._weight(names.up, inner, self.hidden, shard_dim=0)]
        )
        down = self._weight(names.down, self.hidden, inner, shard_dim=1)
        return DenseSources(self._linear(up, mlp.bias), self._linear([down], mlp.bias, scale))

    def _gate_up(self, gate: str, up: str, inner: int) -> list[WeightSource]:
        """Weights of gates and of ups, of an MLP or of an expert."""
        form = self.names.gate_up
        if form is GateUp.SEPARATE:
            return [self._weight(name, inner, self.hidden, shard_dim=0) for name in (gate, up)]
        fused = self._weight(up, 2 * inner, self.hidden, shard_dim=0)
        if form is GateUp.HALVES:
            runs = [RowRuns(start, inner, stride=2 * inner) for start in (0, inner)]
        else:
            runs = [RowRuns(start, 1, stride=2, count=inner) for start in (0, 1)]
        return [replace(fused, slice=own) for own in runs]

    def _moe(self, mlp: MoeSpec, scale: float) -> MoeSources:
        names, inner = self.names, mlp.intermediate
        gate, up = self._gate_up(names.expert_gate, names.expert_up, inner)
        down = self._weight(names.expert_down, self.hidden, inner, shard_dim=1)
        stacked = mlp.experts if "{expert}" not in names.expert_down else None

        def of(weight: WeightSource, number: int) -> WeightSource:
            if stacked:
                return replace(weight, shape=(stacked, *weight.shape), index=number)
            return replace(weight, name=weight.name.replace("{expert}", str(number)))

        experts = (
            ExpertSources(of(gate, each), of(up, each), replace(of(down, each), scale=scale))
            for each in range(mlp.experts)
        )
        router = f"{self._at(names.router)}.weight"
        return MoeSources(WeightSource(router, (mlp.experts, self.hidden)), tuple(experts))


def _runs(fused: FusedQkv, widths: dict[str, int], kv_heads: int) -> dict[str, RowRuns]:
    """Rows of query, key and value in a fused tensor."""
    groups = fused.groups or kv_heads
    lengths = {part: width // groups for part, width in widths.items()}
    stride, runs, start = sum(lengths.values()), {}, 0
    for part in fused.order:
        runs[part] = RowRuns(start, lengths[part], stride, groups)
        start += lengths[part]
    return runs
