"""Results as the tables of `docs/kernels.md`.

Invariant: a case without figures is there, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.kernels import results
from bench.kernels.campaign import ABSENT
from bench.kernels.cases.case import OURS, Case
from bench.kernels.lower_bounds import Ceilings, fraction
from bench.tables import table

PAGE = results.ROOT / "docs" / "kernels.md"
BEGIN = "<!-- Written by `python -m bench.kernels --docs`. -->"
END = "<!-- End of what was written. -->"

NOT_MEASURED = "not measured"

_COLUMNS = ("operation", "shape", "µs", "of its floor", "goal", "others, µs")
Figures = Mapping[tuple[str, str], Mapping[str, Any]]
"""Figures of a contender, by names of case and contender."""


def tables(cases: Sequence[Case], found: Sequence[results.Results]) -> str:
    """A table for each GPU, or one that says that nothing was measured."""
    if not found:
        return _table(cases, {}, None)
    return "\n\n".join("\n".join(_section(cases, one)) for one in found)


def _section(cases: Sequence[Case], one: results.Results) -> Iterator[str]:
    device, ceilings = one["device"], Ceilings(**one["ceilings"])
    yield f"### {device['gpu']}"
    yield ""
    if results.stale(one):
        yield (
            f"**Stale:** kernels or launches have changed since; these figures are of "
            f"`{one['kernels_hash']}`."
        )
    else:
        yield f"Of the kernels as they are (`{one['kernels_hash']}`)."
    yield (
        f"{one['date']}, torch {device['torch']}, CUDA {device['cuda']}, "
        f"Triton {device['triton']}; `{one['command']}`."
    )
    yield f"Ceilings of the same run: {ceilings}."
    yield ""
    figures = {(each["case"], each["contender"]): each for each in one["figures"]}
    yield _table(cases, figures, ceilings)


def _table(cases: Sequence[Case], figures: Figures, ceilings: Ceilings | None) -> str:
    return table(_COLUMNS, (_row(case, figures, ceilings) for case in cases))


def _row(case: Case, figures: Figures, ceilings: Ceilings | None) -> tuple[str, ...]:
    ours = figures.get((case.name, OURS))
    others = "; ".join(
        f"{peer} {_time(figures.get((case.name, peer)))}"
        for peer in case.peers
        if (case.name, peer) in figures
    )
    part = _part(case, ours, ceilings)
    return case.operation, case.shape, _time(ours), part, str(case.goal), others


def _time(figures: Mapping[str, Any] | None) -> str:
    if figures is None:
        return NOT_MEASURED
    if figures.get("failed") == ABSENT:
        return ABSENT
    return "failed" if "failed" in figures else f"{figures['median_us']:.1f}"


def _part(case: Case, figures: Mapping[str, Any] | None, ceilings: Ceilings | None) -> str:
    if figures is None or ceilings is None or "failed" in figures:
        return ""
    part = fraction(figures, ceilings)
    met = case.goal.met(part, figures["median_us"])
    return f"{part:.2f}" if met is not False else f"{part:.2f} (goal missed)"


def put_into(page: str, text: str) -> str:
    """A page with its tables replaced.

    Raises:
        ValueError: the page has no place for them.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} with {END} after it")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def write(cases: Sequence[Case], page: Path = PAGE) -> None:
    """Bring a page up to date with the results there are."""
    page.write_text(put_into(page.read_text(), tables(cases, results.read_all())))
