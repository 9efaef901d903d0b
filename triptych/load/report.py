"""A run's figures as a table for people."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from triptych.load.measures import Figures, Spread


def table(runs: Iterable[Figures]) -> Table:
    """One row a run."""
    made = Table(
        "streams",
        "requests",
        "TTFT p50 / p99 ms",
        "TPOT p50 / p99 ms",
        "end to end p50 / p99 ms",
        "output tokens/s",
        "requests/s",
        "messages/s",
        "failed",
    )
    for run in runs:
        made.add_row(
            "trace" if run.concurrency is None else str(run.concurrency),
            str(run.requests),
            _pair(run.ttft_ms, digits=1),
            _pair(run.tpot_ms, digits=2),
            _pair(run.end_to_end_ms, digits=0),
            f"{run.output_tokens_per_s:.1f}",
            f"{run.requests_per_s:.2f}",
            f"{run.messages_per_s:.0f}",
            ", ".join(f"{count} {status}" for status, count in run.failures.items()) or "0",
        )
    return made


def _pair(one: Spread, *, digits: int) -> str:
    return f"{one.p50:.{digits}f} / {one.p99:.{digits}f}"
