"""How a command waits for a server that does not answer: not for long, and not in silence.

A library may well sit out a restart; a person who has not started a server wants to hear so.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triptych.client import Unavailable

RETRY_S = 2.0


def tell(error: Unavailable, _pause_s: float) -> None:
    """Say on a terminal, once a call, that it is waiting; what `Client` takes as `on_retry`."""
    from triptych.commands.endings import complain

    if error.tries == 1 and sys.stderr.isatty():
        found = error.message if error.reason else "nothing answers yet"
        complain(f"{error.address}: {found}; trying again")
