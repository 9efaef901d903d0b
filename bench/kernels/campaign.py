"""Measures cases one by one and keeps what was found, failures too.

Invariant: what is found is kept as it comes, so that a run that is broken off loses nothing; ours
come before others, so that a short run has them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from bench.kernels.errand import Lost
from bench.kernels.floors import Ceilings, fraction
from bench.kernels.timing import Pace
from bench.kernels.trial import OURS, Case

Figures = dict[str, Any]
"""Of one contender of one case: what `bench.kernels.worker.measure` answers, and which they are."""


ABSENT = "not installed"
"""Why a contender was not measured."""
_PACKAGES = {"flashinfer": "flashinfer"}


class Asked(Protocol):
    """Somebody who measures, and may be lost."""

    @property
    def device(self) -> Mapping[str, str]: ...

    def ask(self, request: Mapping[str, Any], most_s: float | None = None) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How thorough a campaign is."""

    pace: Pace = field(default_factory=Pace)
    peers: bool = True
    budget_s: float = 420.0
    """After it nothing more is begun."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a campaign came to."""

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


def find_ceilings(asked: Asked, pace: Pace) -> Ceilings:
    """Measure what the GPU can do at best.

    Raises:
        Lost: it could not be measured, so nothing could.
    """
    copy, matmul = (
        asked.ask({"ceiling": kind, "pace": asdict(pace)})["per_s"] for kind in ("copy", "matmul")
    )
    return Ceilings(copy, matmul)


def run(
    asked: Asked,
    cases: Sequence[Case],
    settings: Settings,
    keep: Callable[[Findings], None],
    tell: Callable[[str], None] = print,
    clock: Callable[[], float] = time.monotonic,
) -> Findings:
    """Measure every contender of every case, as far as the budget goes.

    Args:
        asked: who measures.
        cases: to measure.
        settings: how.
        keep: called with all that is known whenever there is more.
        tell: told of progress, a line at a time.
        clock: what the budget is measured by, in seconds.

    Raises:
        Lost: not even the ceilings could be measured.
    """
    end = clock() + settings.budget_s
    ceilings = find_ceilings(asked, settings.pace)
    findings = Findings(asked.device, ceilings, [])
    tell(f"{asked.device['gpu']}: {ceilings}")
    for case, contender in _entries(cases, settings.peers):
        left_s = end - clock()
        figures = {"case": case.name, "contender": contender}
        if not installed(contender):
            figures["failed"] = ABSENT
        elif left_s <= 0:
            figures["failed"] = "no time was left"
        else:
            figures.update(_measure(asked, case, contender, settings.pace, left_s))
        findings.figures.append(figures)
        keep(findings)
        tell(_line(figures, ceilings))
    return findings


def installed(contender: str) -> bool:
    """Whether there is any use in asking: a worker that finds nothing has to be started anew."""
    package = _PACKAGES.get(contender)
    return package is None or importlib.util.find_spec(package) is not None


def _entries(cases: Sequence[Case], peers: bool) -> list[tuple[Case, str]]:
    ours = [(case, OURS) for case in cases]
    return ours + [(case, peer) for case in cases if peers for peer in case.peers]


def _measure(asked: Asked, case: Case, contender: str, pace: Pace, most_s: float) -> Figures:
    request = {"case": case.name, "contender": contender, "pace": asdict(pace)}
    try:
        return asked.ask(request, most_s)
    except Lost as reason:
        return {"failed": str(reason)}


def _line(figures: Figures, ceilings: Ceilings) -> str:
    name = f"{figures['case']} · {figures['contender']}"
    if "failed" in figures:
        return f"{name}: FAILED, {figures['failed']}"
    part = fraction(figures, ceilings)
    return f"{name}: {figures['median_us']:.1f} µs, {part:.2f} of its floor"
