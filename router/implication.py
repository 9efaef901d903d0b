"""Which requests the crashes of one replica's engine are laid to.

A crash is known as one when the model comes back as another process than before. Until then it may
have been the link that was lost, and whoever would be refused for it waits to know.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from chassis.errors import RequestFailed
from router.live_request import LiveRequest
from router.metrics import RecoveryMetrics

log = logging.getLogger(__name__)

MOST_CRASHES = 3


class Implications:
    """The crashes of one replica."""

    def __init__(self, metrics: RecoveryMetrics, recovery_s: float) -> None:
        """Wait `recovery_s` seconds at most for a model to come back and tell."""
        self._metrics = metrics
        self._recovery_s = recovery_s
        self._incarnation = 0
        self._implicated: list[LiveRequest] = []
        self._back = asyncio.Event()

    def lost(self, implicated: Iterable[LiveRequest]) -> None:
        """The model is gone, and that is laid to `implicated` unless it turns out not to be."""
        self._back.clear()
        self._implicated = list(implicated)
        for live in self._implicated:
            live.implicate()

    def back(self, incarnation: int) -> None:
        """The model is here, as process `incarnation`; the same as before has not crashed."""
        if incarnation == self._incarnation:
            for live in self._implicated:
                live.exonerate()
        else:
            self._metrics.implications.inc(len(self._implicated))
        self._incarnation = incarnation
        self._implicated = []
        self._back.set()

    async def judge(self, live: LiveRequest) -> None:
        """Let `live` run again unless it was running in too many crashes.

        Raises:
            RequestFailed: it was.
        """
        if live.crashes < MOST_CRASHES:
            return
        try:
            async with asyncio.timeout(self._recovery_s):
                await self._back.wait()
        except TimeoutError:
            log.debug("a model that does not come back is taken to have crashed")
        if live.crashes < MOST_CRASHES:
            return
        log.error(
            "refused: it was running in too many engine crashes",
            extra={"handle": f"{live.handle:#018x}", "crashes": live.crashes},
        )
        raise RequestFailed(
            "IMPLICATED_IN_CRASHES",
            f"the engine has crashed {live.crashes} times while this request was running",
        )
