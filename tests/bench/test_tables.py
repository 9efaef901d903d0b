"""Markdown tables."""

from __future__ import annotations

import pytest

from bench.tables import table


def test_numbers_are_aligned_to_the_right_of_the_first_column():
    assert table(("round", "lost"), [("one", "0")], numbers=True).splitlines() == [
        "| round | lost |",
        "|---|---:|",
        "| one | 0 |",
    ]


def test_a_row_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 cells under 2 columns"):
        table(("model", "server"), [("one",)])
