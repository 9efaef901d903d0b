"""Parameters of a kernel's launch, beyond its arguments.

Invariant: none of it changes what a kernel computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Config:
    """The launch of one kernel."""

    tiles: Mapping[str, int] = field(default_factory=dict)
    """The kernel's `BLOCK_*` and other constants that only change its speed, by name."""
    num_warps: int = 4
    num_stages: int = 2
    """Iterations of a loop whose loads are in flight at once."""

    def options(self) -> dict[str, int]:
        """All of it as keyword arguments of a launch."""
        return {**self.tiles, "num_warps": self.num_warps, "num_stages": self.num_stages}


@dataclass(frozen=True, slots=True)
class Tuned:
    """The launch that is best for a shape, of those tried."""

    shape: Mapping[str, int]
    config: Config
