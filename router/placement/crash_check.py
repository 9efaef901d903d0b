"""Check of requests against engine crashes, with the wait for a model to come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from chassis.errors import RequestFailed
from router.admission.quarantine import CrashRecord, EngineCrashes
from router.metrics import RecoveryMetrics
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)


class CrashCheck:
    """Crashes of one replica's engine, and the requests that are refused for them."""

    def __init__(self, metrics: RecoveryMetrics, recovery_s: float) -> None:
        """Wait `recovery_s` seconds at most for the model to come back."""
        self._metrics = metrics
        self._recovery_s = recovery_s
        self._crashes = EngineCrashes()
        self._back = asyncio.Event()

    def lost(self, running: Iterable[CrashRecord], suspect: CrashRecord | None) -> None:
        """Count the loss of the model against the requests it was `running`."""
        self._back.clear()
        self._crashes.lost(running, suspect)

    def back(self, incarnation: int) -> None:
        """Confirm or withdraw the last loss, now that the model is there as `incarnation`."""
        self._metrics.crash_implications.inc(self._crashes.back(incarnation))
        self._back.set()

    async def check(self, request: RouterRequest) -> None:
        """Let `request` run again unless engine crashes are blamed on it.

        Where that depends on whether the model has crashed, wait for it to come back.

        Raises:
            RequestFailed: they are; the requests that ran beside it are cleared.
        """
        record = request.crash_record
        if not record.blamable:
            return
        try:
            async with asyncio.timeout(self._recovery_s):
                await self._back.wait()
        except TimeoutError:
            self._crashes.stays_away()
            record.blame()
        if record.blamed_for:
            log.error(
                "refused: it was running in too many engine crashes",
                extra={"handle": f"{request.handle:#018x}", "crashes": record.blamed_for},
            )
            raise RequestFailed(
                "IMPLICATED_IN_CRASHES",
                f"the engine has crashed {record.blamed_for} times while this request was running",
            )
