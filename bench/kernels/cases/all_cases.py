"""All cases, in the order of measurement and of the tables.

Invariant: names differ.
"""

from __future__ import annotations

from bench.kernels.cases import attention, rows, sampling
from bench.kernels.cases.case import Case

CASES: tuple[Case, ...] = (*rows.CASES, *attention.CASES, *sampling.CASES)


def case_named(name: str) -> Case:
    """Find a case.

    Raises:
        LookupError: there is none of that name.
    """
    for case in CASES:
        if case.name == name:
            return case
    raise LookupError(f"no case is named {name!r}")
