"""The tables of docs/kernels.md are those of the results there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kernels import report, results
from bench.kernels.campaign import Findings
from bench.kernels.cases.all_cases import CASES
from bench.kernels.cases.case import OURS, Case, Goal
from bench.kernels.lower_bounds import Ceilings

DEVICE = {"gpu": "NVIDIA H200", "torch": "2.11", "cuda": "13.0", "triton": "3.6"}
COPY = Case("copy", "small", None, None, {}, Goal(0.85), peers=("other", "absent"))
DRAW = Case("draw", "64", None, None, {}, Goal(most_us=40.0))
PRODUCT = Case("product", "square", None, None, {})


def figures(case: Case, contender: str, **found: object) -> dict[str, object]:
    return {"case": case.name, "contender": contender, **found}


def rendered(*of: dict[str, object]) -> str:
    findings = Findings(DEVICE, Ceilings(4e12, 8e14), list(of))
    return report.tables([COPY, DRAW, PRODUCT], [results.of(findings, "a command")])


def test_the_page_has_a_row_for_every_case() -> None:
    section = report.PAGE.read_text().partition(report.BEGIN)[2].partition(report.END)[0]
    rows = [line.split(" | ")[:2] for line in section.splitlines() if line.startswith("| ")]

    known = {(f"| {case.operation}", case.shape) for case in CASES}
    assert {tuple(row) for row in rows} - {("| operation", "shape")} == known, (
        "run python -m bench.kernels --docs"
    )


def test_without_results_every_case_says_so() -> None:
    text = report.tables([COPY, DRAW], [])

    assert "| copy | small | not measured |  | 0.85 |  |" in text
    assert "| draw | 64 | not measured |  | 40 µs |  |" in text


def test_a_row_tells_time_share_of_the_floor_and_others() -> None:
    text = rendered(
        figures(COPY, OURS, median_us=1.25, bytes=4_000_000, flops=0),
        figures(COPY, "other", median_us=2.5, bytes=4_000_000, flops=0),
        figures(COPY, "absent", failed="not installed"),
        figures(DRAW, OURS, median_us=41.0, bytes=4_000_000, flops=0),
        figures(PRODUCT, OURS, failed="relative error 1"),
    )

    assert (
        "| copy | small | 1.2 | 0.80 (goal missed) | 0.85 | other 2.5; absent not installed |"
        in text
    )
    assert "| draw | 64 | 41.0 | 0.02 (goal missed) | 40 µs |  |" in text
    assert "| product | square | failed |  |  |  |" in text
    assert "copy 4.00 TB/s, bfloat16 product 800 TFLOP/s" in text


def test_a_floor_is_that_of_bytes_or_of_flops_whichever_is_later() -> None:
    text = rendered(figures(PRODUCT, OURS, median_us=100.0, bytes=4_000_000, flops=40_000_000_000))

    assert "| product | square | 100.0 | 0.50 |  |  |" in text


def test_stale_figures_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = Findings(DEVICE, Ceilings(4e12, 8e14), [])
    written = results.of(findings, "a command")

    assert "Stale" not in report.tables([COPY], [written])
    monkeypatch.setattr(results, "kernels_hash", lambda: "changed")
    assert "**Stale:**" in report.tables([COPY], [written])


def test_only_the_tables_of_a_page_are_replaced(tmp_path: Path) -> None:
    page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"

    assert report.put_into(page, "new") == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    with pytest.raises(ValueError, match="has no"):
        report.put_into("no place", "new")
