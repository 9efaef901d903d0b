"""A whole benchmark: find out what is served, make prompts for it, run the loads one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from chassis.errors import StartError
from chassis.links.credentials import channel
from triptych.client import AsyncClient, Model, Options
from triptych.client.connection import CHANNEL_OPTIONS
from triptych.load import machine, prompts
from triptych.load.generator import Job, Sender, closed_loop, open_loop
from triptych.load.measures import Figures
from triptych.load.traces import read_trace, shape

_ANSWER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """Loads to run, one after the other.

    Attributes:
        address: the router's.
        concurrency: one closed-loop run for each; not used where there is a trace.
        requests: to send in each run; with a trace: of it, None: all.
        prompt_tokens: length of each prompt.
        max_tokens: length of each answer.
        trace: file of recorded arrivals, for one open-loop run.
        rate_scale: how many times faster than recorded.
        temperature: 0 is greedy.
        warm_up: requests sent before, and not counted.
    """

    address: str
    concurrency: Sequence[int] = (1,)
    requests: int | None = None
    prompt_tokens: int = 128
    max_tokens: int = 128
    trace: Path | None = None
    rate_scale: float = 1.0
    temperature: float = 0.0
    warm_up: int = 1


@dataclass(frozen=True)
class Report:
    """A finished benchmark.

    Attributes:
        model: that was served.
        plan: that was run.
        runs: figures, one of each run.
        machine: that they were measured on.
    """

    model: Model
    plan: BenchPlan
    runs: tuple[Figures, ...]
    machine: str

    @property
    def title(self) -> str:
        """Model, dtype and machine of the figures, and in a second line the load."""
        plan = self.plan
        load = f"{plan.prompt_tokens} prompt tokens, {plan.max_tokens} output tokens"
        if plan.trace is not None:
            load = f"trace {plan.trace.name} at {plan.rate_scale:g} times its rate"
        return f"{self.model.name} in {self.model.dtype} on {self.machine}\n{load}"

    def as_json(self) -> dict[str, Any]:
        """Plain data; keys are only ever added."""
        return {
            "model": self.model.name,
            "dtype": self.model.dtype,
            "machine": self.machine,
            "prompt_tokens": self.plan.prompt_tokens,
            "max_tokens": self.plan.max_tokens,
            "trace": None if self.plan.trace is None else self.plan.trace.name,
            "rate_scale": self.plan.rate_scale,
            "temperature": self.plan.temperature,
            "runs": [run.as_json() for run in self.runs],
        }


async def run(plan: BenchPlan, console: Console) -> Report:
    """Run `plan`, with a progress bar on `console`.

    Nothing is retried: what is measured is the server as it is.

    Raises:
        TriptychError: the server does not answer.
        StartError: the plan does not fit the model, or the trace cannot be read.
    """
    async with AsyncClient(plan.address) as client:
        models = await client.models(timeout=_ANSWER_S, retry_s=0)
        if not models:
            raise StartError(f"{plan.address} serves no model yet")
        asked = Options(add_special_tokens=False, timeout=_ANSWER_S, retry_s=0)
        text = await client.tokenize(prompts.text(), asked)
    model = models[0]
    _check(plan, model)
    options = Options(model=model.name, temperature=plan.temperature, seed=0)
    async with channel(plan.address, CHANNEL_OPTIONS) as opened:
        sender = Sender(opened, prompts.Prompts(text.ids), options)
        with _progress(console) as progress:
            await closed_loop(sender, _jobs(plan, plan.warm_up), concurrency=1, on_done=_ignore)
            if plan.trace is not None:
                runs = [await _run_trace(sender, plan, model, progress)]
            else:
                runs = [await _run_closed(sender, plan, c, progress) for c in plan.concurrency]
    return Report(model, plan, tuple(runs), machine.describe(plan.address))


def _progress(console: Console) -> Progress:
    """A bar for each run, on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def _check(plan: BenchPlan, model: Model) -> None:
    wanted = plan.prompt_tokens + plan.max_tokens
    if plan.trace is None and wanted > model.context_length:
        raise StartError(
            f"--prompt-tokens {plan.prompt_tokens} and --max-tokens {plan.max_tokens} are "
            f"{wanted} tokens together; {model.name} has a context of {model.context_length}"
        )


def _jobs(plan: BenchPlan, count: int) -> list[Job]:
    return [Job(number, plan.prompt_tokens, plan.max_tokens) for number in range(count)]


def _ignore() -> None:
    """Warming up is no progress."""


async def _run_closed(
    sender: Sender, plan: BenchPlan, concurrency: int, progress: Progress
) -> Figures:
    jobs = _jobs(plan, plan.requests or 4 * concurrency)
    task = progress.add_task(
        f"{concurrency} stream{'s' if concurrency > 1 else ''}", total=len(jobs)
    )
    return await closed_loop(
        sender, jobs, concurrency=concurrency, on_done=lambda: progress.advance(task)
    )


async def _run_trace(sender: Sender, plan: BenchPlan, model: Model, progress: Progress) -> Figures:
    recorded = read_trace(plan.trace)[: plan.requests] if plan.trace else []
    arrivals = shape(recorded, context_length=model.context_length, rate_scale=plan.rate_scale)
    task = progress.add_task("trace", total=len(recorded))
    return await open_loop(sender, arrivals, on_done=lambda: progress.advance(task))
