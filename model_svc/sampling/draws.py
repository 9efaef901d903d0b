"""Inputs of a step's draws, as arrays.

Invariant: each array has one entry for each draw, in the order of the draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model_svc.sampling.params import SampleInput, SamplingParams

NOT_ASKED = -1
"""Alternatives of a draw whose log-probability nobody asked for."""

_SEED_MASK = 2**64 - 1
_GREEDY = SamplingParams(seed=0, temperature=0.0)

CHOICE = np.dtype(
    [
        ("seed", np.uint64),
        ("position", np.int64),
        ("candidate", np.int64),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("temperature", np.float32),
        ("alternatives", np.int32),
        ("greedy", np.bool_),
        ("plain", np.bool_),
        ("may_edit", np.bool_),
    ]
)
"""Choices of one draw. Filters and seeds of a greedy one are those of no filter."""


def choice_of(
    params: SamplingParams, position: int, candidate: int
) -> tuple[int | float | bool, ...]:
    """The record of `CHOICE` for a draw at output `position`."""
    how = _GREEDY if params.greedy else params
    asked = NOT_ASKED if params.logprobs is None else params.logprobs
    may_edit = params.edits(0) or params.bad_endings is not None
    return (
        how.seed & _SEED_MASK,
        position,
        candidate,
        how.top_k,
        how.top_p,
        how.min_p,
        how.temperature,
        asked,
        params.greedy,
        params.plain,
        may_edit,
    )


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class Draws:
    """One step's draws.

    Attributes:
        choices: [draws] of `CHOICE`.
        edited: number of a draw whose logits are changed before it → its input.
    """

    choices: npt.NDArray[np.void]
    edited: Mapping[int, SampleInput] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Sequence[SampleInput]) -> Draws:
        """Draws of single inputs."""
        records = []
        for one in inputs:
            record = choice_of(one.spec, one.position, one.candidate)
            records.append((*record[:-2], one.spec.plain and not one.edits, one.edits))
        edited = {number: one for number, one in enumerate(inputs) if one.edits}
        return cls(np.array(records, CHOICE), edited)

    def __len__(self) -> int:
        return len(self.choices)

    @property
    def plain(self) -> bool:
        """True if the likeliest tokens are all that is asked for."""
        return int(np.count_nonzero(self.choices["plain"])) == len(self.choices)
