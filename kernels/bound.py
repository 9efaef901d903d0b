"""Operations bound to the entries of a table.

Entries are found once, when operations are bound or a layer is packed: a call goes straight to its
entry. Invariant: a computation is captured only if all of its operations and layers are recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

from kernels.formats import DENSE, KV_AS_COMPUTED, KvFormat, WeightFormat
from kernels.layers import Activation, Experts, Linear
from kernels.ops import Captured, Operations, Routing
from kernels.table import CACHED, OPERATIONS, PACKING, Recorder, Table
from kernels.uncaptured import ACTIVATIONS, Gated, relu_mul


def bind(
    table: Table, weights: WeightFormat = DENSE, caches: KvFormat = KV_AS_COMPUTED
) -> Operations:
    """Bind every operation to its entry.

    Args:
        table: of entries.
        weights: the format of layers that are packed without one.
        caches: the format of all caches.

    Raises:
        UnsupportedDevice: an operation has no entry; the message says what to do.
    """
    table.get("pack_linear", weights)
    table.get("pack_experts", weights)
    return cast(Operations, _BoundOperations(table, weights, caches))


class _BoundOperations:
    """See `Operations`; each operation but those of packing is an attribute, the entry itself."""

    def __init__(self, table: Table, weights: WeightFormat, caches: KvFormat) -> None:
        self.recorder = table.recorder
        self._table = table
        self._weights = weights
        self._all_recorded = self.recorder is not None
        for name in OPERATIONS:
            if name not in PACKING:
                entry = table.get(name, caches if name in CACHED else None)
                foreign = self.recorder is not None and not entry.recorded
                run = _unrecorded(entry.run, self.recorder) if foreign else entry.run
                setattr(self, name, run)

    def capture(self, compute: Callable[[], torch.Tensor]) -> Captured | None:
        if self.recorder is None or not self._all_recorded:
            return None
        return self.recorder.capture(compute)

    def pack_linear(
        self, weight: torch.Tensor, bias: torch.Tensor | None, format: WeightFormat | None = None
    ) -> Linear:
        format = format or self._weights
        entry = self._table.get("pack_linear", format, weight)
        self._all_recorded &= entry.recorded
        return cast(Linear, entry.run(weight, bias, format))

    def pack_gated(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: WeightFormat | None = None,
        activation: Activation = "silu",
        *,
        takes_context: bool = False,
    ) -> Linear:
        format = format or self._weights
        fusible = activation == "silu" and not takes_context
        fused = self._table.find("pack_gated", format, weight) if fusible else None
        if fused is None:
            return Gated(self.pack_linear(weight, bias, format), self._gate(activation))
        self._all_recorded &= fused.recorded
        return cast(Linear, fused.run(weight, bias, format))

    def pack_activated(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        format: WeightFormat | None = None,
        activation: Activation = "gelu",
    ) -> Linear:
        self._all_recorded = False
        return Gated(self.pack_linear(weight, bias, format), ACTIVATIONS[activation])

    def pack_experts(
        self,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        routing: Routing,
        format: WeightFormat | None = None,
    ) -> Experts:
        format = format or self._weights
        entry = self._table.get("pack_experts", format, gate_up)
        self._all_recorded &= entry.recorded
        return cast(Experts, entry.run(router, gate_up, down, routing, format))

    def _gate(self, activation: Activation) -> Callable[[torch.Tensor], torch.Tensor]:
        bound: Any = self
        if activation == "silu":
            return cast(Callable[[torch.Tensor], torch.Tensor], bound.silu_mul)
        if activation == "relu":
            self._all_recorded = False
            return relu_mul
        approximate = "tanh" if activation == "gelu_tanh" else "none"
        return lambda gate_up: bound.gelu_mul(gate_up, approximate)


def _unrecorded(run: Callable[..., Any], recorder: Recorder | None) -> Callable[..., Any]:
    """An operation that ends a recording, among others that are recorded."""
    assert recorder is not None

    def call(*arguments: Any, **named: Any) -> Any:
        recorder.compute_otherwise()
        return run(*arguments, **named)

    return call
