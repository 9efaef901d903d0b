"""A run's figures as a table for people, no wider than a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from triptych.load.measures import Figures, Spread


def table(runs: Iterable[Figures]) -> Table:
    """One row a run."""
    made = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for header in (
        "streams",
        "sent",
        "TTFT ms\np50 / p99",
        "TPOT ms\np50 / p99",
        "whole ms\np50 / p99",
        "output\ntokens/s",
        "requests\n/s",
        "failed",
    ):
        made.add_column(header, justify="right", overflow="fold")
    for run in runs:
        made.add_row(
            "trace" if run.concurrency is None else str(run.concurrency),
            str(run.requests),
            _pair(run.ttft_ms, digits=1),
            _pair(run.tpot_ms, digits=2),
            _pair(run.end_to_end_ms, digits=0),
            f"{run.output_tokens_per_s:.1f}",
            f"{run.requests_per_s:.2f}",
            ", ".join(f"{count} {status}" for status, count in run.failures.items()) or "0",
        )
    return made


def _pair(one: Spread, *, digits: int) -> str:
    return f"{_rounded(one.p50, digits)} / {_rounded(one.p99, digits)}"


def _rounded(value: float, digits: int) -> str:
    """Four digits at most, so that a column keeps its width."""
    most = 0 if value >= 1000 else 1 if value >= 100 else digits
    return f"{value:.{min(digits, most)}f}"
