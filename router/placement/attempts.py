"""The attempts that run on one replica.

An event of a link concerns an attempt only if it names the attempt's handle and number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from chassis.errors import ServiceError
from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.admission.quarantine import CrashRecord
from router.links.events import Registered, SubmitRefused
from router.metrics import RecoveryMetrics
from router.placement.attempt import Attempt, Links
from router.requests.request import RouterRequest
from router.requests.results import Delta


class Attempts:
    """Attempts by the handles of their requests; each leaves by its own `finish`."""

    def __init__(self, links: Links, metrics: RecoveryMetrics) -> None:
        """Begin with none; attempts use `links`."""
        self._links = links
        self._metrics = metrics
        self._table: dict[int, Attempt] = {}
        self._steps = itertools.count()

    def __len__(self) -> int:
        return len(self._table)

    def begin(self, request: RouterRequest, ledger: Ledger, ticket: Ticket) -> Attempt:
        """Begin an attempt at `request`, which has a place in `ledger`."""
        return Attempt(request, ledger, ticket, self._links, self._table)

    def receive(self, deltas: Iterable[Delta]) -> bool:
        """Hand a step's deltas to their requests; return whether others may find room now."""
        step, room = next(self._steps), False
        for delta in deltas:
            attempt = self._table.get(delta.handle)
            if attempt is None or attempt.request.attempt != delta.attempt:
                self._metrics.fenced_deltas.inc()
            elif attempt.receive(delta, step):
                room = True
        return room

    def mark_registered(self, event: Registered) -> None:
        """Note that the detokenizer expects a request."""
        attempt = self._find(event.handle, event.attempt)
        if attempt is not None:
            attempt.mark_registered()

    def refuse(self, event: SubmitRefused) -> None:
        """Fail the request that the model refused."""
        attempt = self._find(event.handle, event.attempt)
        if attempt is not None:
            attempt.request.fail(event.error)

    def register_again(self) -> None:
        """Register all requests with a detokenizer that has none."""
        for attempt in self._table.values():
            attempt.register()
            self._metrics.reregistrations.inc()

    def running(self) -> tuple[list[CrashRecord], CrashRecord | None]:
        """Crash records of the requests that the model has, and that of the suspect among them."""
        submitted = [attempt for attempt in self._table.values() if attempt.submitted]
        suspects = (each.request.crash_record for each in submitted if each.isolated)
        return [each.request.crash_record for each in submitted], next(suspects, None)

    def lose(self, *, submitted: bool = True) -> None:
        """Have all requests start again, those that the model has only if `submitted`."""
        for attempt in list(self._table.values()):
            if submitted or not attempt.submitted:
                attempt.finish(lost=True)

    def fail(self, error: ServiceError, ticket: Ticket | None = None) -> None:
        """End all requests with `error`, or that of `ticket`."""
        for attempt in self._table.values():
            if ticket is None or attempt.ticket is ticket:
                attempt.request.fail(error)

    def _find(self, handle: int, number: int) -> Attempt | None:
        attempt = self._table.get(handle)
        return attempt if attempt is not None and attempt.request.attempt == number else None
