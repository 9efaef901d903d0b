"""`triptych bench`: put load on a deployment and say how it held up."""

from __future__ import annotations

from collections.abc import Coroutine
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses
from triptych.commands import arguments, retry_notice

if TYPE_CHECKING:
    from triptych.load.bench import BenchPlan, Report


_More = Annotated[
    list[int] | None, typer.Argument(min=1, metavar="C", help="More values for --concurrency.")
]
_Concurrency = Annotated[
    list[int] | None,
    typer.Option(
        "--concurrency",
        min=1,
        metavar="C...",
        help="Number of simultaneous streams; each value is a separate run. [default: 1]",
    ),
]
_Requests = Annotated[
    int | None,
    typer.Option(
        "--requests",
        min=1,
        metavar="N",
        help="Requests per run. [default: 4 per stream, or the whole trace]",
    ),
]
_PromptTokens = Annotated[
    int, typer.Option("--prompt-tokens", min=1, metavar="P", help="Tokens in each prompt.")
]
_MaxTokens = Annotated[
    int, typer.Option("--max-tokens", min=1, metavar="M", help="Tokens in each answer.")
]
_Trace = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Replay the arrivals recorded in this file (plain or .gz): .csv with columns "
        "TIMESTAMP, ContextTokens and GeneratedTokens, or .jsonl with timestamp (in ms), "
        "input_length and output_length.",
    ),
]
_RateScale = Annotated[
    float,
    typer.Option(
        "--rate-scale", min=1e-6, metavar="X", help="Replay the trace this many times faster."
    ),
]
_Temperature = Annotated[
    float,
    typer.Option(
        "--temperature",
        min=0.0,
        metavar="T",
        help="Randomness; 0 always takes the most likely token.",
    ),
]
_WarmUp = Annotated[
    int,
    typer.Option("--warm-up", min=0, metavar="N", help="Requests sent before measuring starts."),
]
_JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the results to this file.")
]
_PlotFile = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw the results in this file.")
]


def bench(  # noqa: PLR0913  (one parameter an option)
    more: _More = None,
    address: arguments.Address = addresses.PUBLIC,
    concurrency: _Concurrency = None,
    requests: _Requests = None,
    prompt_tokens: _PromptTokens = 128,
    max_tokens: _MaxTokens = 128,
    trace: _Trace = None,
    rate_scale: _RateScale = 1.0,
    temperature: _Temperature = 0.0,
    warm_up: _WarmUp = 1,
    json_file: _JsonFile = None,
    plot_file: _PlotFile = None,
) -> None:
    """Measure latency and throughput of a server under load.

    TTFT is the time to the first token, TPOT the time per output token after it.

    With --concurrency, each stream sends its next request when its last one ends (closed loop);
    with --trace, requests are sent at the recorded times (open loop). Every answer has exactly the
    requested length.
    """
    from triptych.commands.cli_errors import one_line_errors
    from triptych.load.bench import BenchPlan
    from triptych.load.plot import draw, require_format

    with one_line_errors():
        retry_notice.look_up(address)
        if plot_file is not None:
            require_format(plot_file)
        plan = BenchPlan(
            address=address,
            concurrency=[*(concurrency or []), *(more or [])] or [1],
            requests=requests,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            trace=trace,
            rate_scale=rate_scale,
            temperature=temperature,
            warm_up=warm_up,
        )
        for file in (json_file, plot_file):
            _check_folder(file)
        report = _run(plan)
        if json_file is not None:
            _write_json(report, json_file)
        if plot_file is not None:
            draw(report.runs, plot_file, report.title)
    if all(run.failures and run.output_tokens == 0 for run in report.runs):
        raise typer.Exit(1)


def _run(plan: BenchPlan) -> Report:
    from rich.console import Console

    from triptych.commands.output import console
    from triptych.load import bench
    from triptych.load.report import table

    report = _run_loop(bench.run(plan, Console(stderr=True)))
    console().print(table(report.runs))
    return report


def _run_loop(running: Coroutine[Any, Any, Report]) -> Report:
    """Run on uvloop where the server is installed too: what is measured is less of the client."""
    if find_spec("uvloop") is None:
        import asyncio

        return asyncio.run(running)
    import uvloop

    return uvloop.run(running)


def _check_folder(file: Path | None) -> None:
    """Find out before the load is run, not after."""
    from chassis.errors import StartError

    if file is not None and not file.absolute().parent.is_dir():
        raise StartError(f"cannot write {file}: there is no folder {file.parent}")


def _write_json(report: Report, path: Path) -> None:
    import json

    from chassis.errors import StartError

    try:
        path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StartError(f"cannot write {path}: {error.strerror}") from error
