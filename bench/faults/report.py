"""Figures of rounds: a line on the terminal for each, a page of Markdown for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.faults.deployment.counters import FENCED_DELTAS, FENCED_ROWS, RESUBMITTED
from bench.faults.results import Result
from bench.tables import table

_COLUMNS = (
    "round",
    "requests",
    "running at the fault",
    "queued",
    "lost",
    "changed",
    "ended UNAVAILABLE",
    "longest pause s",
    "aim s",
    "first message s",
    "model load s",
    "resubmitted",
    "fenced",
)


def row(result: Result) -> dict[str, str]:
    """A line of the table, by column."""
    late = " !" if result.late else ""
    fenced = result.counters.get(FENCED_ROWS, 0) + result.counters.get(FENCED_DELTAS, 0)
    cells = (
        result.name,
        str(result.requests),
        str(result.in_flight),
        str(result.queued),
        str(result.lost),
        str(result.changed),
        str(result.unavailable),
        f"{result.pause_s:.2f}{late}",
        f"{result.limit_s:.2f}" if result.limit_s else "",
        f"{result.wait_s:.2f}",
        f"{result.load_s:.2f}",
        f"{result.counters.get(RESUBMITTED, 0):.0f}",
        f"{fenced:.0f}",
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def line(result: Result) -> str:
    """A round's figures as it ends."""
    cells = row(result)
    return (
        f"{result.name}: {cells['running at the fault']} of "
        f"{cells['requests']} running, {cells['lost']} lost, {cells['changed']} changed, "
        f"longest pause {cells['longest pause s']} s"
    )


def summary(results: Sequence[Result]) -> str:
    """A sentence over all rounds; the first result is the undisturbed run."""
    injected = results[1:]
    late = sum(one.late for one in injected)
    problems = sum(not one.good for one in injected)
    return (
        f"{len(injected)} rounds: {sum(one.requests for one in injected)} requests, "
        f"{sum(one.in_flight for one in injected)} running at a fault, "
        f"{sum(one.lost for one in injected)} lost, "
        f"{sum(one.changed for one in injected)} changed; "
        f"{problems} rounds not as promised, {late} paused longer than the aim."
    )


def markdown(everything: Mapping[str, Any], results: Sequence[Result]) -> str:
    """The page that `bench/results/faults.md` holds.

    Args:
        everything: `date`, `machine`, `command`, `took_s`.
        results: the undisturbed run, then the rounds.
    """
    return "\n".join(_lines(everything, results)) + "\n"


def _lines(everything: Mapping[str, Any], results: Sequence[Result]) -> Iterator[str]:
    yield "# Faults"
    yield ""
    yield (
        f"{everything['date']}, {everything['machine']}; `{everything['command']}`, "
        f"{everything['took_s']:.0f} s."
    )
    yield ""
    yield summary(results)
    yield ""
    yield (
        "Each round sends the same 32 requests of mixed kinds to the bundled model in float32 and "
        "compares every answer (text, ids, log-probabilities, finish, usage, prompt) with that of "
        "the undisturbed run, to the bit. *Running*: sent and not over. *Queued*: of these, those "
        "that wait for a place. *Ended UNAVAILABLE*: streams that had messages when their router "
        "died; sent again, and counted as all others. *Longest pause*: between two messages of a "
        "stream. *Aim*: from the round's first fault to its last, and the time in which the model "
        "loads, and 2 s. *First message*: the longest wait for it; more requests are sent than run "
        "at once. *Fenced*: rows and deltas dropped because nobody wants them any more, those "
        "after a stop string among them."
    )
    yield ""
    yield table(_COLUMNS, [tuple(row(result).values()) for result in results], numbers=True)
    troubled = [one for one in results if one.problems]
    for result in troubled:
        yield ""
        yield f"## {result.name}"
        yield ""
        yield from (f"- {problem}" for problem in result.problems)
