"""Cases to measure, each with contenders that compute it from the same operands.

Invariant: operands are random and never all zero, and the same for every contender.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

OURS = "triptych"

Call = Callable[[], torch.Tensor]
"""Computes a result; it may overwrite its operands, and is called again and again."""


class Place:
    """Device and random numbers of the operands."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device = device
        # Tensors without memory take no generator.
        self._generator = None
        if device != "meta":
            self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """Random values of mean zero and variance one."""
        return torch.randn(shape, generator=self._generator, dtype=dtype, device=self.device)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """From `low` to below `high`."""
        return torch.randint(
            low, high, shape, generator=self._generator, dtype=dtype, device=self.device
        )

    def shuffled(self, count: int) -> torch.Tensor:
        """[count] int64: what is below `count`, in any order."""
        return torch.randperm(count, generator=self._generator, device=self.device)


@dataclass(frozen=True, slots=True)
class Trial:
    """One set of operands, and what may be done with them."""

    contenders: Mapping[str, Callable[[], Call]]
    """Contenders by name; each prepares its operands untimed and returns the call to time."""
    want: Callable[[], torch.Tensor]
    """The oracle's result, or a part of it; asked before anything is overwritten."""
    moved_bytes: int
    """Bytes that every way to compute it moves."""
    flops: int = 0
    part: Callable[[torch.Tensor], torch.Tensor] = lambda result: result
    """The part of a contender's result that the oracle gives."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Aim of a case; None for no aim."""

    fraction: float | None = None
    """Share of the floor: the time that the ceilings allow, over the time taken."""
    most_us: float | None = None
    besides: str = ""
    """Further aims, in words."""

    def __str__(self) -> str:
        if self.fraction is not None:
            return f"{self.fraction:.2f}{self.besides}"
        return "" if self.most_us is None else f"{self.most_us:g} µs"

    def met(self, fraction: float, time_us: float) -> bool | None:
        """True if a measurement meets the goal; None if there is no goal."""
        if self.fraction is not None:
            return fraction >= self.fraction
        return None if self.most_us is None else time_us <= self.most_us


@dataclass(frozen=True, slots=True)
class Case:
    """An operation at one shape."""

    operation: str
    shape: str
    """In words."""
    make: Callable[[Place], Trial]
    tiny: Callable[[Place], Trial]
    """The same at a size that an interpreter can take."""
    launches: Mapping[str, Mapping[str, int]]
    """The kernels whose launch may be tuned by it, and the shape that each asks for."""
    goal: Goal = field(default_factory=Goal)
    tolerance: float = 4e-3
    """Most that a result may differ from the oracle's, relative, in L2 norm."""
    peers: tuple[str, ...] = ()
    """Contenders besides ours."""
    drawn: bool = False
    """True if others' results differ by chance, so that they are not compared."""

    @property
    def name(self) -> str:
        """Name of the case, for --only."""
        return f"{self.operation}: {self.shape}"
