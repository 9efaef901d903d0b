"""The figures of a run, from the times of its requests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.load.measures import RequestTimes, percentile, summarise


@given(
    st.lists(st.floats(0, 1e3), min_size=1, max_size=40),
    st.sampled_from([0.0, 1.0, 50.0, 99.0, 100.0]),
)
def test_percentiles_interpolate_as_numpy_does(values, percent):
    values.sort()

    assert percentile(values, percent) == pytest.approx(np.percentile(values, percent), abs=1e-9)


def test_figures_of_two_requests():
    times = [RequestTimes(5, 5, 0.1, 0.5), RequestTimes(3, 2, 0.3, 0.5)]

    figures = summarise(times, wall_s=2.0, concurrency=2)

    assert figures.ttft_ms.p50 == pytest.approx(200.0)
    assert figures.ttft_ms.p99 == pytest.approx(298.0)
    assert figures.tpot_ms.mean == pytest.approx(100.0)
    assert figures.end_to_end_ms.p50 == pytest.approx(500.0)
    assert (figures.output_tokens, figures.output_tokens_per_s) == (8, 4.0)
    assert (figures.requests_per_s, figures.messages_per_s) == (1.0, 3.5)


def test_failures_are_counted_by_status_and_left_out_of_the_rest():
    times = [
        RequestTimes(4, 4, 0.1, 0.5),
        RequestTimes(0, 0, 9.0, 9.0, "UNAVAILABLE"),
        RequestTimes(0, 1, 9.0, 9.0, "UNAVAILABLE"),
    ]

    figures = summarise(times, wall_s=1.0, concurrency=1)

    assert (figures.requests, figures.failures) == (3, {"UNAVAILABLE": 2})
    assert figures.ttft_ms.p99 == pytest.approx(100.0)
    assert figures.requests_per_s == 1.0


def test_figures_that_do_not_exist_are_null_in_json():
    figures = summarise([RequestTimes(1, 1, 0.1, 0.1)], wall_s=1.0, concurrency=None)

    assert math.isnan(figures.tpot_ms.p50)
    assert figures.as_json()["tpot_ms"] == {"mean": None, "p50": None, "p99": None}
    assert figures.as_json()["concurrency"] is None
