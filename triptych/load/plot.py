"""A picture of a closed-loop sweep: throughput and latency over the number of streams."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chassis.errors import StartError
from triptych.load.measures import Figures, Spread

_HEADROOM = 1.1  # of the vertical axis, over the highest point


def require_format(path: Path) -> None:
    """Refuse a picture that cannot be drawn, before the load is run.

    Args:
        path: of the picture; its ending decides the format, and PNG is drawn where it has none.

    Raises:
        StartError: matplotlib is not installed, or does not know the format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise StartError(
            "--plot needs matplotlib; install it with `pip install 'triptych[plot]'`"
        ) from error
    formats = FigureCanvasAgg.get_supported_filetypes()
    ending = path.suffix.removeprefix(".").lower()
    if ending and ending not in formats:
        raise StartError(
            f"--plot: cannot draw a .{ending} file; use .png or one of {', '.join(sorted(formats))}"
        )


def draw(runs: Sequence[Figures], path: Path, title: str) -> None:
    """Draw throughput and latency of `runs` over their concurrency.

    Args:
        runs: one point each.
        path: of the picture; its ending decides the format.
        title: stands above all; what is a formula to matplotlib is drawn as it is.

    Raises:
        StartError: the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, parse_math=False, wrap=True)
    throughput, ttft, tpot = figure.subplots(1, 3)
    streams = [run.concurrency or 0 for run in runs]
    throughput.plot(streams, [run.output_tokens_per_s for run in runs], marker="o")
    throughput.set_title("output tokens/s")
    _spreads(ttft, streams, [run.ttft_ms for run in runs], "TTFT, ms")
    _spreads(tpot, streams, [run.tpot_ms for run in runs], "TPOT, ms")
    for axes in (throughput, ttft, tpot):
        axes.set_xlabel("streams" if any(streams) else "trace")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0, top=_HEADROOM * axes.dataLim.ymax or None)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise StartError(f"cannot draw {path}: {error}") from error


def _spreads(axes: Any, streams: Sequence[int], spreads: Sequence[Spread], title: str) -> None:
    axes.plot(streams, [one.p50 for one in spreads], marker="o", label="p50")
    axes.plot(streams, [one.p99 for one in spreads], marker="o", label="p99")
    axes.set_title(title)
    axes.legend(loc="lower right")
