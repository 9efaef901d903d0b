"""Measurement of cases one by one, failures included.

Invariant: findings are saved as they come, so that a run cut short loses nothing; our kernels come
before others' ones, so that a short run has them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.kernels.cases.case import OURS, Case
from bench.kernels.lower_bounds import Ceilings, fraction
from bench.kernels.measuring.timing import REP_MS
from bench.kernels.measuring.worker_client import Lost

Figures = dict[str, Any]
"""Figures of one contender of one case, as `measuring.worker.measure` answers, with both names."""


ABSENT = "not installed"
"""Reason for the absence of a contender's figures."""
_PACKAGES = {"flashinfer": "flashinfer"}


class Measurer(Protocol):
    """Client of a process that measures, and may die of it."""

    @property
    def device(self) -> Mapping[str, str]: ...

    def ask(self, request: Mapping[str, Any], most_s: float | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """Thoroughness of a campaign."""

    rep_ms: float = REP_MS
    peers: bool = True
    budget_s: float = 420.0
    """Seconds after which no further measurement begins."""


@dataclass(frozen=True, slots=True)
class Findings:
    """Figures of a campaign, as far as it has come."""

    device: Mapping[str, str]
    ceilings: Ceilings
    figures: list[Figures]

    def failed(self) -> list[str]:
        """Our own cases without figures."""
        return [
            f"{each['case']}: {each['failed']}"
            for each in self.figures
            if each["contender"] == OURS and "failed" in each
        ]


def find_ceilings(measurer: Measurer, rep_ms: float) -> Ceilings:
    """Measure what the GPU can do at best.

    Raises:
        Lost: it could not be measured, so nothing could.
    """
    copy, matmul = (
        measurer.ask({"ceiling": kind, "rep_ms": rep_ms})["per_s"] for kind in ("copy", "matmul")
    )
    return Ceilings(copy, matmul)


def run(
    measurer: Measurer,
    cases: Sequence[Case],
    settings: Settings,
    save: Callable[[Findings], None],
    report: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> Findings:
    """Measure every contender of every case, as far as the budget goes.

    Args:
        measurer: client of the process that measures.
        cases: to measure.
        settings: thoroughness and budget.
        save: called with all findings whenever there is a new one.
        report: called with a line of progress.
        clock: seconds, by which the budget is measured.

    Raises:
        Lost: not even the ceilings could be measured.
    """
    end = clock() + settings.budget_s
    ceilings = find_ceilings(measurer, settings.rep_ms)
    findings = Findings(measurer.device, ceilings, [])
    report(f"{measurer.device['gpu']}: {ceilings}")
    for case, contender in _entries(cases, settings.peers):
        left_s = end - clock()
        figures = {"case": case.name, "contender": contender}
        if not installed(contender):
            figures["failed"] = ABSENT
        elif left_s <= 0:
            figures["failed"] = "no time was left"
        else:
            figures.update(_measure(measurer, case, contender, settings.rep_ms, left_s))
        findings.figures.append(figures)
        save(findings)
        report(_line(figures, ceilings))
    return findings


def installed(contender: str) -> bool:
    """True if a contender's package is installed; a worker that lacks it would have to restart."""
    package = _PACKAGES.get(contender)
    return package is None or importlib.util.find_spec(package) is not None


def _entries(cases: Sequence[Case], peers: bool) -> list[tuple[Case, str]]:
    ours = [(case, OURS) for case in cases]
    return ours + [(case, peer) for case in cases if peers for peer in case.peers]


def _measure(
    measurer: Measurer, case: Case, contender: str, rep_ms: float, most_s: float
) -> Figures:
    request = {"case": case.name, "contender": contender, "rep_ms": rep_ms}
    try:
        return measurer.ask(request, most_s)
    except Lost as reason:
        return {"failed": str(reason)}


def _line(figures: Figures, ceilings: Ceilings) -> str:
    name = f"{figures['case']} · {figures['contender']}"
    if "failed" in figures:
        return f"{name}: FAILED, {figures['failed']}"
    part = fraction(figures, ceilings)
    return f"{name}: {figures['median_us']:.1f} µs, {part:.2f} of its floor"
