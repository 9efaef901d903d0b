"""Tables and lines for people."""

from __future__ import annotations

from rich.console import Console

_PIPED_COLUMNS = 160


def console() -> Console:
    """A console on stdout; where that is no terminal, wide enough that no table is folded."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_PIPED_COLUMNS)
