"""Shortest time that a case could take on a GPU of measured ceilings.

Invariant: ceilings and figures are of the same run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Best measured rates of a GPU."""

    copy_bytes_per_s: float
    """Read and written, by a large copy."""
    matmul_flops_per_s: float
    """Rate of a large product in bfloat16."""

    def __str__(self) -> str:
        return (
            f"copy {self.copy_bytes_per_s / 1e12:.2f} TB/s, "
            f"bfloat16 product {self.matmul_flops_per_s / 1e12:.0f} TFLOP/s"
        )

    def floor_us(self, moved_bytes: int, flops: int) -> float:
        """Time for the bytes or for the FLOPs, whichever takes longer."""
        seconds = max(moved_bytes / self.copy_bytes_per_s, flops / self.matmul_flops_per_s)
        return 1e6 * seconds


def fraction(figures: Mapping[str, Any], ceilings: Ceilings) -> float:
    """A case's floor over the time that a contender took."""
    floor: float = ceilings.floor_us(figures["bytes"], figures["flops"])
    return floor / float(figures["median_us"])
