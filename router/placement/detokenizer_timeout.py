"""Time limit for requests that a model runs and no detokenizer reads.

They wait, because the detokenizer is usually back at once and then goes on from where it was. After
`rejoin_s` they are moved, as soon as there is a replica to move them to; after `recovery_s` they
fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from router.settings import RecoveryTimeouts


@dataclass(frozen=True, slots=True)
class DetokenizerAway:
    """A replica's detokenizer has been away for a limit; `gave_up` at the second."""

    gave_up: bool


class DetokenizerTimeout:
    """Absence of a replica's detokenizer from its model.

    Attributes:
        elapsed: true once requests are moved rather than kept waiting.
    """

    def __init__(self, timeouts: RecoveryTimeouts, emit: Callable[[DetokenizerAway], None]) -> None:
        """Emit an event at each of the two limits."""
        self._timeouts = timeouts
        self._emit = emit
        self._timer: asyncio.TimerHandle | None = None
        self.elapsed = False

    def begin(self) -> None:
        """Start the time, unless it runs."""
        if self._timer is None:
            self._timer = _after(self._timeouts.rejoin_s, self._rejoin_elapsed)

    def end(self) -> None:
        """Stop the time: the detokenizer is back, or no request waits for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.elapsed = False

    def _rejoin_elapsed(self) -> None:
        self.elapsed = True
        rest_s = self._timeouts.recovery_s - self._timeouts.rejoin_s
        self._timer = _after(rest_s, lambda: self._emit(DetokenizerAway(gave_up=True)))
        self._emit(DetokenizerAway(gave_up=False))


def _after(delay_s: float, then: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(max(0.0, delay_s), then)
