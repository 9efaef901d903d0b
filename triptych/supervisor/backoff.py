"""Pauses before a service that has ended is started again. Pure: no clock, no loop.

A service that keeps ending soon waits ever longer, up to a bound; one that had settled does not
wait.
"""

from __future__ import annotations

from chassis.backoff import Backoff

FIRST_S = 0.1
MOST_S = 5.0
SETTLED_S = 5.0
"""A service that has lived so long did not end for the reason it ended the last time."""


class RestartBackoff:
    """Pauses of one service between its end and its next start."""

    def __init__(self) -> None:
        self._pauses = Backoff(FIRST_S, MOST_S)
        self._settled = True

    def after(self, lived_s: float) -> float:
        """Seconds to wait after a life of `lived_s` seconds."""
        if self._settled or lived_s >= SETTLED_S:
            self._settled = False
            self._pauses.reset()
            return 0.0
        return self._pauses.next_s()
