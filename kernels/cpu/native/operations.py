"""The set of operations that serves on this machine's CPU in 16 bits.

Invariant: where the compiled library is missing, the set in plain PyTorch serves, complete.
"""

from __future__ import annotations

import torch

from kernels import cpu
from kernels.cpu import experts
from kernels.cpu.experts import PackedExperts
from kernels.cpu.linear import pack_linear
from kernels.cpu.native.attention import NativeAttention
from kernels.cpu.native.library import Library, chosen
from kernels.cpu.native.rows import NativeRows
from kernels.cpu.rows import embedding
from kernels.ops import Operations, Routing


class NativeOperations(NativeRows, NativeAttention):
    """The operations in C, and those in PyTorch that gain nothing by it."""

    embedding = staticmethod(embedding)
    pack_linear = staticmethod(pack_linear)
    moe = staticmethod(experts.moe)

    def __init__(self, library: Library) -> None:
        """Take the functions of `library`."""
        NativeRows.__init__(self, library)
        NativeAttention.__init__(self, library)
        self.level = library.level

    def pack_experts(
        self, router: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor, routing: Routing
    ) -> PackedExperts:
        """See `Operations.pack_experts`."""
        arithmetic = experts.Arithmetic(pack_linear, self.silu_mul, torch.float32)
        steps = range(1, experts.MOST_TOKENS + 1)
        return experts.pack(router, gate_up, down, routing, arithmetic, steps)


def serving() -> Operations:
    """The set that serves on this machine.

    Raises:
        UnsupportedDevice: the environment asks for a level that does not exist.
    """
    library = chosen().library
    return cpu if library is None else NativeOperations(library)
