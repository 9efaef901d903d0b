"""The table of figures."""

import io

from rich.console import Console

from triptych.load.measures import RequestTimes, summarise
from triptych.load.report import table


def test_a_busy_run_fits_80_columns_uncut():
    times = [RequestTimes(128, 128, 1.2345, 43.456)] * 256
    out = io.StringIO()

    Console(file=out, width=80).print(table([summarise(times, 30.0, 64)]))

    shown = out.getvalue()
    assert "…" not in shown
    assert all(word in shown for word in ("streams", "tokens/s", "1234 / 1234", "1092.3"))


def test_failures_are_told_by_status():
    out = io.StringIO()
    times = [RequestTimes(0, 0, 1.0, 1.0, "UNAVAILABLE")]

    Console(file=out, width=160).print(table([summarise(times, 1.0, 1)]))

    assert "1 UNAVAILABLE" in out.getvalue()
