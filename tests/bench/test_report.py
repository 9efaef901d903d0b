"""The benchmark's page."""

from bench import report
from bench.pipeline import Load, Overhead, Result
from triptych.load.measures import RequestTimes, summarise


def test_the_page_has_a_row_for_each_load_and_the_figures_below():
    figures = summarise([RequestTimes(11, 11, 0.1, 1.1)], 2.0, 8)
    result = Result(
        "a model", 2.5, {"router": 50.4}, 1.234, Overhead(3.0, 0.5), (Load(figures, 9.0, 1.0),)
    )
    about = {
        "date": "2026-01-02",
        "machine": "a machine",
        "command": "a command",
        "prompt_tokens": 128,
        "output_tokens": 11,
    }

    page = report.markdown({**about, "results": [result.as_json()]})

    assert "| 8 | 6 | 100.0 / 100.0 | 100.00 / 100.00 | 9.00 | 1.00 | 6 |" in page
    assert "TTFT 3.00 ms, TPOT 0.50 ms" in page
    assert "ready: 2.5 s" in page
    assert "1.23 % of one core" in page
    assert "router 50" in page
