"""A picture of the comparison: output tokens/s and TTFT over streams, a row for each model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers.figures import ratios
from bench.peers.figures.ratios import Figure, Metric, Turn
from bench.peers.workloads import WORKLOADS

_SERVERS = ("triptych", "vllm", "llama.cpp")
_PANELS: tuple[tuple[Figure, str], ...] = (
    ("output_tokens_per_s", "output tokens/s"),
    ("ttft_ms", "TTFT p50, ms"),
    ("tpot_ms", "TPOT p50, ms"),
)


def draw(turns: Sequence[Turn], path: Path) -> None:
    """Draw all models of `turns` into `path`; bars reach from the least to the most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    models = [name for name in WORKLOADS if any(turn["model"] == name for turn in turns)]
    picture = Picture(figsize=(12, 3.4 * len(models)), layout="constrained")
    FigureCanvasAgg(picture)
    grid = picture.subplots(len(models), len(_PANELS), squeeze=False)
    for row, model in zip(grid, models, strict=True):
        for axes, (figure, title) in zip(row, _PANELS, strict=True):
            _panel(axes, turns, model, figure)
            axes.set_title(f"{WORKLOADS[model].title}: {title}")
            axes.set_xlabel("streams")
            axes.set_xscale("log", base=2)
            axes.set_xticks(WORKLOADS[model].streams, list(map(str, WORKLOADS[model].streams)))
            axes.set_ylim(bottom=0)
            if axes.get_legend_handles_labels()[0]:  # something was measured
                axes.legend()
    picture.savefig(path, dpi=100)


def _panel(axes: Any, turns: Sequence[Turn], model: str, figure: Figure) -> None:
    streams = WORKLOADS[model].streams
    for server in _SERVERS:
        found = {
            count: list(ratios.values(turns, model, server, Metric(figure, str(count))).values())
            for count in streams
        }
        counts = [count for count in streams if found[count]]
        if not counts:
            continue
        middle = [statistics.median(found[count]) for count in counts]
        below = [m - min(found[count]) for m, count in zip(middle, counts, strict=True)]
        above = [max(found[count]) - m for m, count in zip(middle, counts, strict=True)]
        axes.errorbar(counts, middle, yerr=[below, above], marker="o", capsize=3, label=server)
