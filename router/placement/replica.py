"""The router's side of one replica: a model and the detokenizer that reads it.

A request is known to both or to neither: it is registered before it is submitted, and forgotten by
both when it ends. Requests of a lost model start again elsewhere; a detokenizer that comes back is
given the requests that the model still runs. Events of the links and of the timeout are applied
in `apply`, one at a time; the owner is notified once, after an event was applied.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import grpc
from grpc import aio

from chassis.errors import ServiceError, Unavailable
from chassis.links.reconnecting_stream import Ending
from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.links import events
from router.links.detokenizer_link import DetokenizerLink
from router.links.model_link import ModelLink
from router.links.peer_errors import ReplicaLost
from router.metrics import RecoveryMetrics
from router.placement.attempt import Attempt, Links
from router.placement.crash_check import CrashCheck
from router.placement.detokenizer_timeout import DetokenizerAway, DetokenizerTimeout
from router.requests.prompt_arena import PromptArena
from router.requests.request import RouterRequest
from router.requests.results import Delta, ReplicaLoad
from router.settings import RecoveryTimeouts, ReplicaAddress

log = logging.getLogger(__name__)

Event = events.ModelEvent | events.DetokenizerEvent | DetokenizerAway


class Change(enum.Enum):
    """Changes of a replica that its owner acts on."""

    ROOM = enum.auto()  # readiness or room
    MODEL = enum.auto()  # the model is back: limits and the standing of requests may differ too


@dataclass(frozen=True, slots=True)
class Channels:
    """Channels to a replica's services."""

    model: aio.Channel
    detokenizer: aio.Channel


class Replica:
    """Both links of a replica, and the requests that run on it."""

    def __init__(
        self,
        address: ReplicaAddress,
        channels: Channels,
        arena: PromptArena,
        notify: Callable[[Change], None],
        metrics: RecoveryMetrics,
        timeouts: RecoveryTimeouts,
    ) -> None:
        """Prepare the links.

        Args:
            address: of its services.
            channels: to its services.
            arena: holds the prompts.
            notify: called after each change; must not call back into `apply`.
            metrics: counts of recovery.
            timeouts: time limits for services that are away.
        """
        self.address = address
        self.router_id = secrets.randbits(32)
        self._notify = notify
        self._metrics = metrics
        self._attempts: dict[int, Attempt] = {}  # by handle
        self._steps = itertools.count()
        self._timeout = DetokenizerTimeout(timeouts, self.apply)
        self._crashes = CrashCheck(metrics, timeouts.recovery_s)
        self.check = self._crashes.check
        self.model = ModelLink(channels.model, arena, lambda: self.router_id, self.apply)
        self.detokenizer = DetokenizerLink(channels.detokenizer, lambda: self.router_id, self.apply)
        self._links = Links(self.model, self.detokenizer)

    async def run_links(self) -> None:
        """Keep both links up until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.model.run())
            group.create_task(self.detokenizer.run())

    @property
    def ready(self) -> bool:
        """True while it takes requests."""
        return self.model.up and self.detokenizer.up and self.detokenizer.upstream.linked

    @property
    def running(self) -> int:
        """Requests of this router that run on it."""
        return len(self._attempts)

    @property
    def stranded(self) -> bool:
        """True once its requests have waited too long for the detokenizer."""
        return self._timeout.elapsed

    async def run(self, request: RouterRequest, ledger: Ledger, ticket: Ticket) -> None:
        """Run `request`, which has a place in `ledger`, until it ends; then release the place.

        Raises:
            ReplicaLost: the replica was lost before the end.
        """
        request.handle = self.router_id << 32 | request.number
        attempt = Attempt(request, ledger, ticket, self._links, self._attempts)
        try:
            self._check_links(ledger)
            attempt.register()
            await attempt.registered
            if not attempt.ended:
                self._check_links(ledger)
                self._metrics.resubmissions.inc(request.resumed)
                attempt.submit()
            if await attempt.done:
                raise ReplicaLost
        finally:
            if attempt.finish():
                self._changed()

    def _check_links(self, ledger: Ledger) -> None:
        """Check that the links are still those on which a place in `ledger` was granted."""
        if not (self.detokenizer.up and self.model.ledger is ledger):
            raise ReplicaLost

    def apply(self, event: Event) -> None:
        """Apply an event of a link or of the timeout, then notify the owner."""
        match event:
            case events.Text():
                if not self._receive(event.deltas):
                    return
            case events.Registered():
                self._mark_registered(event)
                return
            case events.SubmitRefused():
                self._refuse(event)
                return
            case events.ModelReady():
                self._crashes.back(event.incarnation)
                self._changed(Change.MODEL)
                return
            case events.ModelLost():
                self._lose_model(event)
            case events.DetokenizerReady():
                self._register_again()
            case events.DetokenizerLost():
                self._lose_detokenizer(event)
            case DetokenizerAway(gave_up=True):
                self._fail_all(Unavailable("the detokenizer is away"))
                return
        self._changed()

    def move(self) -> None:
        """Have its requests start again elsewhere; the owner is not notified."""
        log.warning("requests are moved to another replica", extra={"requests": self.running})
        self._lose(list(self._attempts.values()))
        self._timeout.end()

    def fail(self, ticket: Ticket, error: ServiceError) -> None:
        """End a request with `error`."""
        for attempt in self._attempts.values():
            if attempt.ticket is ticket:
                attempt.request.fail(error)

    def describe(self) -> ReplicaLoad:
        """Its load."""
        load = self.model.load
        return ReplicaLoad(
            address=self.address.model,
            ready=self.ready,
            running=self.running,
            kv_slots_used=load.kv_slots_used,
            kv_slots_total=self.model.kv_slots,
            kv_slots_cached=load.kv_slots_cached,
        )

    def _changed(self, change: Change = Change.ROOM) -> None:
        """Start or stop the timeout, and notify the owner."""
        if self.ready or not self._attempts:
            self._timeout.end()
        else:
            self._timeout.begin()
        self._notify(change)

    def _receive(self, deltas: Iterable[Delta]) -> bool:
        """Hand a step's deltas to their requests; return whether the owner is to be notified."""
        step, changed = next(self._steps), False
        for delta in deltas:
            attempt = self._attempts.get(delta.handle)
            if attempt is None or attempt.request.attempt != delta.attempt:
                self._metrics.fenced_deltas.inc()
            elif attempt.receive(delta, step):
                changed = True
        ledger = self.model.ledger
        if ledger is not None and ledger.frame(asyncio.get_running_loop().time()):
            changed = True
        return changed

    def _mark_registered(self, event: events.Registered) -> None:
        attempt = self._attempts.get(event.handle)
        if attempt is not None and attempt.request.attempt == event.attempt:
            attempt.mark_registered()

    def _refuse(self, event: events.SubmitRefused) -> None:
        attempt = self._attempts.get(event.handle)
        if attempt is not None and attempt.request.attempt == event.attempt:
            attempt.request.fail(event.error)

    def _register_again(self) -> None:
        """Register the requests that the model still runs."""
        for attempt in self._attempts.values():
            attempt.register()
            self._metrics.reregistrations.inc()

    def _lose_model(self, event: events.ModelLost) -> None:
        """Have all requests start again, and count a crash unless the model said that it ends."""
        if event.was_ready and not event.ending.orderly:
            submitted = [attempt for attempt in self._attempts.values() if attempt.submitted]
            suspects = (a.request.crash_record for a in submitted if a.isolated)
            running = (a.request.crash_record for a in submitted)
            self._crashes.lost(running, next(suspects, None))
        self._renumber(event.ending, self.detokenizer.restart)
        self._lose(list(self._attempts.values()))

    def _lose_detokenizer(self, event: events.DetokenizerLost) -> None:
        """Have requests that were not submitted start again; the others wait for it."""
        self._renumber(event.ending, self.model.restart)
        self._lose([a for a in self._attempts.values() if not a.submitted])

    def _renumber(self, ending: Ending, restart_other: Callable[[], None]) -> None:
        """Draw another number if another router has this one."""
        if ending.code is grpc.StatusCode.ALREADY_EXISTS:
            self.router_id = secrets.randbits(32)
            restart_other()

    def _lose(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            attempt.finish(lost=True)

    def _fail_all(self, error: ServiceError) -> None:
        for attempt in self._attempts.values():
            attempt.request.fail(error)
