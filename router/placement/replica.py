"""The router's side of one replica: a model and the detokenizer that reads it.

A request is known to both or to neither: it is registered before it is submitted, and forgotten by
both when it ends. Requests of a lost model start again elsewhere; a detokenizer that comes back is
given the requests that the model still runs. Events of the links and of the timeout are applied
in `apply`, one at a time; the owner is notified once, after an event was applied.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
from collections.abc import Callable
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
from router.placement.attempt import Links
from router.placement.attempts import Attempts
from router.placement.crash_check import CrashCheck
from router.placement.detokenizer_timeout import DetokenizerAway, DetokenizerTimeout
from router.requests.prompt_arena import PromptArena
from router.requests.request import RouterRequest
from router.requests.results import ReplicaLoad
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
        self._timeout = DetokenizerTimeout(timeouts, self.apply)
        self._crashes = CrashCheck(metrics, timeouts.recovery_s)
        self.check = self._crashes.check
        self.model = ModelLink(channels.model, arena, lambda: self.router_id, self.apply)
        self.detokenizer = DetokenizerLink(channels.detokenizer, lambda: self.router_id, self.apply)
        self._attempts = Attempts(Links(self.model, self.detokenizer), metrics)

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
        attempt = self._attempts.begin(request, ledger, ticket)
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
                if not self._receive(event):
                    return
            case events.Registered():
                self._attempts.mark_registered(event)
                return
            case events.SubmitRefused():
                self._attempts.refuse(event)
                return
            case events.ModelReady():
                self._crashes.back(event.incarnation)
                self._changed(Change.MODEL)
                return
            case events.ModelLost():
                self._lose_model(event)
            case events.DetokenizerReady():
                self._attempts.register_again()
            case events.DetokenizerLost():
                self._lose_detokenizer(event)
            case DetokenizerAway(gave_up=True):
                self._attempts.fail(Unavailable("the detokenizer is away"))
                return
        self._changed()

    def move(self) -> None:
        """Have its requests start again elsewhere; the owner is not notified."""
        log.warning("requests are moved to another replica", extra={"requests": self.running})
        self._attempts.lose()
        self._timeout.end()

    def fail(self, ticket: Ticket, error: ServiceError) -> None:
        """End a request with `error`."""
        self._attempts.fail(error, ticket)

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

    def _receive(self, event: events.Text) -> bool:
        """Take in the text of a step; return whether the owner is to be notified."""
        changed = self._attempts.receive(event.deltas)
        ledger = self.model.ledger
        if ledger is not None and ledger.frame(asyncio.get_running_loop().time()):
            changed = True
        return changed

    def _lose_model(self, event: events.ModelLost) -> None:
        """Have all requests start again, and count a crash unless the model said that it ends."""
        if event.was_ready and not event.ending.orderly:
            self._crashes.lost(*self._attempts.running())
        self._renumber(event.ending, self.detokenizer.restart)
        self._attempts.lose()

    def _lose_detokenizer(self, event: events.DetokenizerLost) -> None:
        """Have requests that were not submitted start again; the others wait for it."""
        self._renumber(event.ending, self.model.restart)
        self._attempts.lose(submitted=False)

    def _renumber(self, ending: Ending, restart_other: Callable[[], None]) -> None:
        """Draw another number if another router has this one."""
        if ending.code is grpc.StatusCode.ALREADY_EXISTS:
            self.router_id = secrets.randbits(32)
            restart_other()
