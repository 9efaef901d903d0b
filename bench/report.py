"""Results of the pipeline benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.tables import table

_COLUMNS = (
    "streams",
    "output tokens/s",
    "TTFT p50 / p99 ms",
    "TPOT p50 / p99 ms",
    "step ms",
    "between steps ms",
    "messages/s",
)


def markdown(everything: Mapping[str, Any]) -> str:
    """Text of `bench/results/pipeline.md`, from the content of `pipeline.json`."""
    lines = [
        "# Pipeline",
        "",
        f"{everything['date']}, {everything['machine']}; `{everything['command']}`.",
        f"Prompts of {everything['prompt_tokens']} tokens, answers of "
        f"{everything['output_tokens']}, greedy, the client on the same machine.",
        "Overhead is what the client sees minus the engine's own step time.",
        "",
    ]
    for result in everything["results"]:
        lines += _model(result)
    return "\n".join(lines)


def _model(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {result['model']}"
    yield ""
    yield table(_COLUMNS, (_row(load) for load in result["loads"]))
    yield ""
    overhead = result["overhead"]
    yield (
        f"- overhead of a lone stream: TTFT {overhead['ttft_ms']:.2f} ms, "
        f"TPOT {overhead['tpot_ms']:.2f} ms"
    )
    yield f"- from the command to ready: {result['ready_s']:.1f} s"
    yield f"- idle CPU, all processes: {result['idle_cpu_percent']:.2f} % of one core"
    memory = ", ".join(f"{name} {mib:.0f}" for name, mib in result["resident_mib"].items())
    yield f"- resident memory in MiB: {memory}"
    yield ""


def _row(load: Mapping[str, Any]) -> tuple[str, ...]:
    figures = load["figures"]
    ttft, tpot = figures["ttft_ms"], figures["tpot_ms"]
    return (
        f"{figures['concurrency']}",
        f"{figures['output_tokens_per_s']:.0f}",
        f"{ttft['p50']:.1f} / {ttft['p99']:.1f}",
        f"{tpot['p50']:.2f} / {tpot['p99']:.2f}",
        f"{load['step_ms']:.2f}",
        f"{load['between_steps_ms']:.2f}",
        f"{figures['messages_per_s']:.0f}",
    )
