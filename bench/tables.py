"""Markdown tables of measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> str:
    """A Markdown table.

    Args:
        columns: headings.
        rows: cells of each row, one for each column.
        numbers: align all columns but the first to the right.

    Raises:
        ValueError: a row has more or fewer cells than there are columns.
    """
    cells = [list(columns), *map(list, rows)]
    for row in cells:
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells under {len(columns)} columns")
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    rule = "|---" + ("|---:" if numbers else "|---") * (len(columns) - 1) + "|"
    return "\n".join((head, rule, *body))
