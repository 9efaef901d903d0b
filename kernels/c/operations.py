"""The set of operations that serves on this machine's CPU in 16 bits.

Invariant: where the compiled library is missing, the set in plain PyTorch serves, complete.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from kernels import cpu
from kernels.c.attention import NativeAttention
from kernels.c.calls import Calls, CapturedCalls
from kernels.c.library import Library, chosen
from kernels.c.linear import NativeExperts, PackedLinear, packable
from kernels.c.rows import NativeRows
from kernels.cpu import experts, linear
from kernels.eager import gated
from kernels.ops import Linear, Operations, Routing


class NativeOperations(NativeRows, NativeAttention):
    """The operations in C, and those in PyTorch that gain nothing by it."""

    def __init__(self, library: Library) -> None:
        """Take the functions of `library`."""
        self.calls = Calls(library)
        NativeRows.__init__(self, self.calls)
        NativeAttention.__init__(self, self.calls)
        self.level = library.level
        self._all_ours = True

    def capture(self, compute: Callable[[], torch.Tensor]) -> CapturedCalls | None:
        """See `Operations.capture`."""
        return self.calls.capture(compute) if self._all_ours else None

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Operations.pack_linear`."""
        if packable(weight):
            return PackedLinear(self.calls, weight, bias)
        self._all_ours = False
        return linear.pack_linear(weight, bias)

    def pack_gated(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
        """See `Operations.pack_gated`."""
        if packable(weight):
            return PackedLinear(self.calls, weight, bias, gated=True)
        return gated(self.pack_linear, self.silu_mul)(weight, bias)

    def pack_experts(
        self, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
    ) -> NativeExperts | experts.PackedExperts:
        """See `Operations.pack_experts`."""
        if packable(gate_up):
            return NativeExperts.pack(self.calls, router, gate_up, down, routing)
        self._all_ours = False
        arithmetic = experts.Arithmetic(self.pack_linear, self.silu_mul, torch.float32)
        steps = range(1, experts.MOST_TOKENS + 1)
        return experts.pack(router, gate_up, down, routing, arithmetic, steps)

    def moe(self, x: torch.Tensor, experts_: NativeExperts | experts.PackedExperts) -> torch.Tensor:
        """See `Operations.moe`."""
        if isinstance(experts_, NativeExperts):
            return experts_(x)
        return experts.moe(x, experts_)


def serving() -> Operations:
    """The set that serves on this machine.

    Raises:
        UnsupportedDevice: the environment asks for a level that does not exist.
    """
    library = chosen().library
    return cpu if library is None else NativeOperations(library)
