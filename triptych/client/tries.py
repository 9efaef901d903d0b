"""Tries of a call that finds no server: their number, and the pauses between them.

Pure: time and chance are handed in, nothing here waits. No try begins later than `retry_s` after
the first failure, and no pause reaches beyond the call's timeout.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

RETRY_S = 10.0
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0
_LONGEST_S = 1e8  # three years; much more overflows in gRPC and would have passed at once


class Tries:
    """The tries of one call; its time starts when this is made.

    Args:
        timeout: seconds that all tries may take together; None: no limit.
        retry_s: seconds after the first failure in which another try may begin; 0: none.
        clock: tells seconds and never goes back.
        draw: a number in [0, 1), another one each time.

    Attributes:
        made: tries begun so far.
    """

    def __init__(
        self,
        timeout: float | None,
        retry_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.made = 0
        self._retry_s = retry_s
        self._clock = clock
        self._draw = draw
        if timeout is not None and timeout > _LONGEST_S:
            timeout = None
        self._ends_at = None if timeout is None else clock() + timeout
        self._gives_up_at: float | None = None
        self._step_s = FIRST_PAUSE_S

    @property
    def left_s(self) -> float | None:
        """Rest of the timeout, in seconds; None: no limit."""
        return None if self._ends_at is None else self._ends_at - self._clock()

    def begin(self) -> float | None:
        """Count another try, and answer how many seconds it may take; None: no limit."""
        self.made += 1
        return self.left_s

    def pause(self, advised_s: float = 0.0) -> float | None:
        """Seconds to wait before the next try, the last one having just failed.

        Pauses double up to a limit; a random part of up to one half is left out, so that clients
        who lost the same server do not come back together.

        Args:
            advised_s: what the server asked to wait; the pause is added to it.

        Returns:
            None where there is no next try.
        """
        now = self._clock()
        if self._gives_up_at is None:
            self._gives_up_at = now + self._retry_s
        until_given_up_s = self._gives_up_at - now
        if not until_given_up_s > 0:
            return None
        pause_s = min(advised_s + self._step_s * (1 - self._draw() / 2), until_given_up_s)
        self._step_s = min(2 * self._step_s, MOST_PAUSE_S)
        return pause_s if self._ends_at is None else min(pause_s, max(0.0, self._ends_at - now))
