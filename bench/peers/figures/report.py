"""Results as Markdown: medians over rounds, ratios with their spread, each target beside them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.peers.figures import ratios
from bench.peers.figures.ratios import Metric, Spread, Turn
from bench.peers.figures.targets import DECODE_SHARE, PREFILL_SHARE, Target, shares, targets
from bench.peers.workloads import PREFILL, TINY, WORKLOADS
from bench.tables import table

_ABSENT = "-"
_OURS = {
    "vllm": "triptych",
    "llama.cpp": "triptych",
    "llama.cpp-q8_0": "triptych-int8",
    "llama.cpp-q4_0": "triptych-int4",
}
_FIGURES = {
    "output_tokens_per_s": "output tokens/s",
    "ttft_ms": "TTFT p50",
    "tpot_ms": "TPOT p50",
    "prefill_tokens_per_s": "prompt tokens/s",
    "start_s": "start to first token",
}


_CELL_COLUMNS = (
    "streams",
    "server",
    "output tokens/s",
    "TTFT p50 ms",
    "TPOT p50 ms",
    "messages a token",
    "client's CPU",
    "Triptych over it: tokens/s",
    "TTFT",
)
_SERVER_COLUMNS = ("server", "start to first token s", "long prompts, tokens/s", "resident MiB")
_TARGET_COLUMNS = ("model", "what", "server, over which", "target", "measured", "met")


def markdown(everything: Mapping[str, Any]) -> str:
    """Text of `bench/results/peers.md`, from the content of `peers.json`."""
    turns: Sequence[Turn] = everything["turns"]
    lines = ["# Beside llama.cpp and vLLM", "", *_about(everything), ""]
    models = [name for name in WORKLOADS if any(turn["model"] == name for turn in turns)]
    for model in models:
        lines += _model(turns, model)
    lines += [*_limits(turns, models), *_targets(turns, models)]
    return "\n".join(lines)


def _about(everything: Mapping[str, Any]) -> Iterator[str]:
    commands = ", ".join(f"`{one}`" for one in dict.fromkeys(everything["commands"]))
    yield f"{everything['date']}, {everything['machine']}; {commands}."
    yield "Beside Triptych: " + ", ".join(
        f"{name} {version}" for name, version in everything["versions"].items()
    )
    yield (
        "Medians over rounds; a ratio is of two turns of one round, given as median (least to "
        "most). All on one machine, client included, one server at a time, bf16 unless named; the "
        "client's CPU time is in percent of one core. Quantised weights are set beside Triptych's "
        "of as many bits."
    )
    cells = [cell for turn in everything["turns"] for cell in turn.get("cells", {}).values()]
    if cells:
        others = [cell["others_share"] for cell in cells]
        stolen = [cell["stolen_share"] for cell in cells]
        yield (
            f"Others used {_percent(statistics.median(others))} of the cores in the median cell "
            f"and {_percent(max(others))} in the worst; the hypervisor took "
            f"{_percent(statistics.median(stolen))} and {_percent(max(stolen))}."
        )
    for server, reason in everything.get("skipped", {}).items():
        yield f"Skipped: {server}, because {reason}."
    for turn in everything["turns"]:
        yield from _failures(turn)


def _failures(turn: Turn) -> Iterator[str]:
    where = f"Failed: {turn.get('server')} on {turn['model']}, round {turn['round'] + 1}"
    if "failure" in turn:
        yield f"{where}: {turn['failure']}."
    for name, cell in turn.get("cells", {}).items():
        if cell["failures"]:
            failed = ", ".join(f"{count} {status}" for status, count in cell["failures"].items())
            yield f"{where}, cell {name}: {failed} of {cell['requests']} requests; not counted."


def _model(turns: Sequence[Turn], model: str) -> Iterator[str]:
    yield f"## {WORKLOADS[model].title}"
    yield ""
    mine = [turn for turn in turns if turn["model"] == model and turn.get("cells")]
    names = list(dict.fromkeys(str(turn["server"]) for turn in sorted(mine, key=_place)))
    cells = dict.fromkeys(name for turn in mine for name in turn["cells"] if name != PREFILL)
    yield table(
        _CELL_COLUMNS,
        (
            _row(mine, model, server, cell)
            for cell in cells
            for server in names
            if any(cell in turn["cells"] for turn in mine if turn["server"] == server)
        ),
    )
    yield ""
    yield table(_SERVER_COLUMNS, (_server(mine, model, server) for server in names))
    yield ""


def _server(turns: Sequence[Turn], model: str, server: str) -> tuple[str, ...]:
    start = ratios.values(turns, model, server, Metric("start_s"))
    rate = ratios.values(turns, model, server, ratios.prefill())
    resident = [turn["resident_mib"] for turn in turns if turn["server"] == server]
    return server, _median(start.values(), 1), _median(rate.values(), 0), _median(resident, 0)


def _place(turn: Turn) -> int:
    """Triptych first, the peers by name after it."""
    return 0 if str(turn["server"]).startswith("triptych") else 1


def _row(turns: Sequence[Turn], model: str, server: str, cell: str) -> tuple[str, ...]:
    def median(figure: ratios.Figure, digits: int) -> str:
        return _median(ratios.values(turns, model, server, Metric(figure, cell)).values(), digits)

    def over(figure: ratios.Figure) -> str:
        if server not in _OURS:
            return ""
        target = Target(model, _OURS[server], Metric(figure, cell), server, None)
        return _ratio(target.measured(turns))

    measured = [
        turn["cells"][cell] for turn in turns if turn["server"] == server and cell in turn["cells"]
    ]
    messages = [one["messages_per_token"] for one in measured if one["messages_per_token"]]
    client = [one["client_cpu_s"] / one["wall_s"] for one in measured]
    return (
        cell,
        server,
        median("output_tokens_per_s", 1),
        median("ttft_ms", 1),
        median("tpot_ms", 2),
        _median(messages, 2),
        _percent(statistics.median(client)),
        over("output_tokens_per_s"),
        over("ttft_ms"),
    )


def _limits(turns: Sequence[Turn], models: Sequence[str]) -> Iterator[str]:
    taken = [turn["limits"] for turn in turns if "limits" in turn]
    if not taken:
        return
    read = statistics.median(one["read_gb_per_s"] for one in taken)
    product = statistics.median(one["product_gflop_per_s"] for one in taken)
    yield "## Against the machine's limits"
    yield ""
    yield (
        f"Memory is read at {read:.1f} GB/s, matrices are multiplied at {product:.0f} GFLOP/s "
        "(medians of the rounds' best)."
    )
    yield ""
    rows = [
        (WORKLOADS[model].title, server, _ratio(near.decode), _ratio(near.prefill))
        for model in models
        if WORKLOADS[model] is not TINY  # bound by overhead, far from either limit
        for server in ("triptych", "vllm", "llama.cpp")
        for near in (shares(turns, model, server),)
        if near.decode or near.prefill
    ]
    if rows:
        decode = f"decode, 1 stream: share of the read rate (target {_percent(DECODE_SHARE)})"
        prefill = f"prefill: share of the product's rate (target {_percent(PREFILL_SHARE)})"
        yield table(("model", "server", decode, prefill), rows)
    yield ""


def _targets(turns: Sequence[Turn], models: Sequence[str]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield table(
        _TARGET_COLUMNS,
        (_target(turns, target) for target in targets() if target.model in models),
    )
    yield ""


def _target(turns: Sequence[Turn], target: Target) -> tuple[str, ...]:
    found = target.measured(turns)
    met = None if found is None else target.met(found.median)
    return (
        WORKLOADS[target.model].title,
        _what(target.metric),
        f"{target.ours} / {target.theirs}",
        _bound(target),
        _ratio(found) if found else "not measured",
        _ABSENT if met is None else ("yes" if met else "**no**"),
    )


def _what(metric: Metric) -> str:
    name = _FIGURES[metric.figure]
    if metric.cell is None or metric.cell == PREFILL:
        return name
    return f"{name}, {metric.cell} stream{'' if metric.cell == '1' else 's'}"


def _bound(target: Target) -> str:
    if target.bound is None:
        return "reported"
    return f"{'≥' if target.sense == 'at least' else '≤'} {target.bound:g}x"


def _ratio(found: Spread | None) -> str:
    if found is None:
        return _ABSENT
    return f"{found.median:.2f} ({found.low:.2f} to {found.high:.2f})"


def _median(found: Any, digits: int) -> str:
    values = list(found)
    return f"{statistics.median(values):.{digits}f}" if values else _ABSENT


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
