"""Which requests the crashes of one replica's engine are laid to.

A crash is known as one when the model comes back as another process than before. Until then it may
have been the link that was lost, and whoever would be refused for it waits to know. Nobody is
refused for a crash that somebody else may have caused, except after far too many.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from chassis.errors import RequestFailed
from router.metrics import RecoveryMetrics
from router.requests.request import Crash, RouterRequest

log = logging.getLogger(__name__)

MOST_ALONE = 3
"""Crashes after which a request is refused, if it was alone in the last."""
MOST = 8
"""Crashes after which it is refused in any case, so that engines do not crash for ever."""


class Quarantine:
    """The crashes of one replica."""

    def __init__(self, metrics: RecoveryMetrics, recovery_s: float) -> None:
        """Wait `recovery_s` seconds at most for a model to come back and tell."""
        self._metrics = metrics
        self._recovery_s = recovery_s
        self._incarnation = 0
        self._last: Crash | None = None
        self._back = asyncio.Event()

    def lost(self, running: Iterable[RouterRequest], suspect: RouterRequest | None) -> None:
        """The model is gone, and with it what was `running`, `suspect` among it if there was."""
        self._back.clear()
        self._last = Crash(tuple(running))
        for live in self._last.running:
            live.implicate(self._last, prime=live is suspect)

    def back(self, incarnation: int) -> None:
        """The model is here, as process `incarnation`; the same as before has not crashed."""
        if self._last is not None and incarnation == self._incarnation:
            self._last.take_back()
        elif self._last is not None:
            self._metrics.crash_implications.inc(len(self._last.running))
            self._last.known = True
            for live in self._last.running:
                _convict(live)
        self._last = None
        self._incarnation = incarnation
        self._back.set()

    async def judge(self, live: RouterRequest) -> None:
        """Let `live` run again unless it was running in too many crashes.

        Raises:
            RequestFailed: it was; what ran beside it is acquitted.
        """
        if not _enough(live.crashes):
            return
        try:
            async with asyncio.timeout(self._recovery_s):
                await self._back.wait()
        except TimeoutError:
            if self._last is not None:  # a model that does not come back is taken to have crashed
                self._last.known = True
            _convict(live)
        if not live.convicted_of:
            return
        log.error(
            "refused: it was running in too many engine crashes",
            extra={"handle": f"{live.handle:#018x}", "crashes": live.convicted_of},
        )
        raise RequestFailed(
            "IMPLICATED_IN_CRASHES",
            f"the engine has crashed {live.convicted_of} times while this request was running",
        )


def _enough(crashes: Sequence[Crash]) -> bool:
    return len(crashes) >= MOST or (len(crashes) >= MOST_ALONE and len(crashes[-1].running) == 1)


def _convict(live: RouterRequest) -> None:
    """Lay its crashes to `live`, if it is guilty, and to nobody else any more.

    Those that another replica has yet to tell of may have been links that were lost.
    """
    known = [crash for crash in live.crashes if crash.known]
    if _enough(known):
        live.convicted_of = len(known)
        for crash in known:
            crash.take_back()
