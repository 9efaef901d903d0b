"""When a service that has ended is started again.

Pure: no clock, no loop. A service that keeps ending soon waits ever longer, up to a bound; one that
had settled does not wait.
"""

from __future__ import annotations

FIRST_S = 0.1
MOST_S = 5.0
SETTLED_S = 5.0
"""Who has lived so long did not end for the reason it ended the last time."""


class Backoff:
    """The waits of one service between its end and its next start."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s` seconds."""
        if lived_s >= SETTLED_S:
            self._next_s = 0.0
        wait_s = self._next_s
        self._next_s = min(max(FIRST_S, 2 * wait_s), MOST_S)
        return wait_s
