"""What becomes of requests that a model runs and no detokenizer reads.

They wait, because the detokenizer is usually back at once and then goes on from where it was. After
a while they are moved, as soon as there is a replica to move them to; for ever they do not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from router.settings import RecoveryTimeouts


class Stranded(Protocol):
    """Whose requests wait."""

    def move(self) -> None:
        """Have them start again elsewhere, if there is anywhere."""

    def give_up(self) -> None:
        """Fail them."""


class DetokenizerTimeout:
    """How long a replica's detokenizer has been away from what its model runs."""

    def __init__(self, stranded: Stranded, patience: RecoveryTimeouts) -> None:
        self._stranded = stranded
        self._patience = patience
        self._timer: asyncio.TimerHandle | None = None
        self.long = False
        """Whether requests are rather moved than kept waiting."""

    def begin(self) -> None:
        """It is away; nothing where it was already."""
        if self._timer is None:
            self._timer = _after(self._patience.rejoin_s, self._too_long)

    def end(self) -> None:
        """It is back, or nothing waits for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self.long = False

    def _too_long(self) -> None:
        self.long = True
        rest_s = self._patience.recovery_s - self._patience.rejoin_s
        self._timer = _after(rest_s, self._stranded.give_up)
        self._stranded.move()


def _after(delay_s: float, then: Callable[[], None]) -> asyncio.TimerHandle:
    return asyncio.get_running_loop().call_later(max(0.0, delay_s), then)
