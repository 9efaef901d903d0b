"""Cost and throughput of the four processes: `python -m bench.pipeline`.

Client and services share the machine, as they do at a user's desk. Overhead is what the client sees
minus what the engine says its steps took.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench import machine, report
from bench.deployment import BenchFailed, Deployment, Steps, deployed
from bench.tiny_checkpoint import write_tiny_checkpoint
from triptych.load import bench
from triptych.load.measures import Figures

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PROMPT_TOKENS = 128
OUTPUT_TOKENS = 128
IDLE_S = 10.0
FEWEST = 16  # requests of a run


@dataclass(frozen=True)
class Load:
    """One closed-loop run beside the engine's own account of it.

    Attributes:
        figures: what the client saw.
        step_ms: mean time of an engine step, in milliseconds.
        between_steps_ms: mean time from one step to the next, in milliseconds: what the processes
            around the engine cost it.
    """

    figures: Figures
    step_ms: float
    between_steps_ms: float


@dataclass(frozen=True)
class Overhead:
    """Waiting time of a lone stream beyond the engine's, in milliseconds.

    Attributes:
        ttft_ms: mean TTFT minus the engine's time for the prompt.
        tpot_ms: mean TPOT minus the mean time of a decode step.
    """

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True)
class Result:
    """One model's figures.

    Attributes:
        model: what was served.
        ready_s: seconds from the command to ready.
        resident_mib: memory by process, after the load.
        idle_cpu_percent: of one core, all processes together, after the load.
        overhead: of a lone stream.
        loads: one a number of streams.
    """

    model: str
    ready_s: float
    resident_mib: dict[str, float]
    idle_cpu_percent: float
    overhead: Overhead
    loads: tuple[Load, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        loads = [{**asdict(load), "figures": load.figures.as_json()} for load in self.loads]
        return {**asdict(self), "loads": loads}


def measure(name: str, model: Path, streams: Sequence[int], requests: int) -> Result:
    """Serve `model` and measure it.

    Args:
        name: how to call it in the table.
        model: checkpoint folder.
        streams: numbers of streams at a time.
        requests: for each stream, one after the other.

    Raises:
        BenchFailed: the services do not start, or a request fails.
    """
    with tempfile.TemporaryFile() as log:
        try:
            with deployed(model, log) as deployment:
                overhead = _overhead(deployment)
                counts = {count: max(FEWEST, count * requests) for count in streams}
                loads = tuple(_load(deployment, *one) for one in counts.items())
                idle = deployment.idle_cpu_percent(IDLE_S)
                resident = deployment.resident_mib()
        except BenchFailed:
            log.seek(0)
            sys.stderr.write(log.read().decode(errors="replace"))
            raise
    return Result(name, deployment.ready_s, resident, idle, overhead, loads)


def _overhead(deployment: Deployment) -> Overhead:
    first, prefill = _run(deployment, streams=1, requests=FEWEST, max_tokens=1)
    ttft_ms = first.ttft_ms.mean - 1000 * prefill.seconds / FEWEST
    whole, steps = _run(deployment, streams=1, requests=FEWEST, max_tokens=OUTPUT_TOKENS)
    # The engine's time for these prompts is not that for the first ones on a machine that is not
    # quiet, so it is taken from their own TTFT.
    prefill_s = FEWEST * (whole.ttft_ms.mean - ttft_ms) / 1000
    decode_ms = 1000 * (steps.seconds - prefill_s) / (steps.count - prefill.count)
    return Overhead(ttft_ms, whole.tpot_ms.mean - decode_ms)


def _load(deployment: Deployment, streams: int, requests: int) -> Load:
    figures, steps = _run(deployment, streams=streams, requests=requests, max_tokens=OUTPUT_TOKENS)
    step_s = steps.seconds / steps.count
    return Load(figures, 1000 * step_s, 1000 * (figures.wall_s / steps.count - step_s))


def _run(
    deployment: Deployment, *, streams: int, requests: int, max_tokens: int
) -> tuple[Figures, Steps]:
    """Run a closed loop; what the client saw and what the engine did for it."""
    plan = bench.BenchPlan(
        address=deployment.address,
        concurrency=[streams],
        requests=requests,
        prompt_tokens=PROMPT_TOKENS,
        max_tokens=max_tokens,
        warm_up=0,
    )
    warm_up = bench.BenchPlan(**{**vars(plan), "requests": streams})
    console = Console(stderr=True)
    uvloop.run(bench.run(warm_up, console))
    before = deployment.steps()
    (figures,) = uvloop.run(bench.run(plan, console)).runs
    if figures.failures:
        raise BenchFailed(f"requests failed: {figures.failures}")
    return figures, deployment.steps() - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the bundled model and a tiny dense one; print a table, write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.pipeline", description=main.__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--requests", type=int, default=4, help="for each stream, and 16 at least")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args(arguments)
    demo = ROOT / "models" / "demo"
    with tempfile.TemporaryDirectory() as folder:
        tiny = write_tiny_checkpoint(Path(folder) / "tiny", tokenizer=demo)
        try:
            results = [
                measure("bundled MoE", demo, options.streams, options.requests),
                measure("dense 5.8M", tiny, options.streams, options.requests),
            ]
        except BenchFailed as failure:
            sys.exit(f"bench: {failure}")
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine.describe(),
        "command": " ".join(["python -m bench.pipeline", *(arguments or sys.argv[1:])]),
        "prompt_tokens": PROMPT_TOKENS,
        "output_tokens": OUTPUT_TOKENS,
    }
    everything = {**about, "results": [result.as_json() for result in results]}
    text = report.markdown(everything)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "pipeline.json").write_text(json.dumps(everything, indent=2) + "\n")
    (options.results / "pipeline.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
