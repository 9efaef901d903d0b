"""One attempt at a request, on one replica.

It begins with a place in the replica's ledger and has one end, `finish`, whatever causes it: the
request has ended, its caller has left, or the replica was lost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.links.detokenizer_link import DetokenizerLink
from router.links.model_link import ModelLink
from router.requests.request import RouterRequest
from router.requests.results import Delta


@dataclass(frozen=True, slots=True)
class Links:
    """Links to the services of one replica."""

    model: ModelLink
    detokenizer: DetokenizerLink


class Attempt:
    """A request on the replica that granted it a place.

    Attributes:
        registered: done once the detokenizer expects the request, or the attempt has ended.
        done: done once the attempt has ended; true if the replica was lost to the request.
        submitted: true once the model has the request.
        ended: true after `finish`.
    """

    def __init__(
        self,
        request: RouterRequest,
        ledger: Ledger,
        ticket: Ticket,
        links: Links,
        table: dict[int, Attempt],
    ) -> None:
        """Begin, and enter `table` under the handle of `request` until the end."""
        loop = asyncio.get_running_loop()
        self.request = request
        self.ledger = ledger
        self.ticket = ticket
        self.registered: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[bool] = loop.create_future()
        self.submitted = False
        self.ended = False
        self._registering = False
        self._links = links
        self._table = table
        table[request.handle] = self

    @property
    def isolated(self) -> bool:
        """True while it keeps others from starting beside it."""
        return self.ledger.isolates(self.ticket)

    def register(self) -> None:
        """Have the detokenizer expect the request."""
        self._registering = True
        self._links.detokenizer.register(self.request)

    def mark_registered(self) -> None:
        """Note that the detokenizer expects the request."""
        if not self.registered.done():
            self.registered.set_result(None)

    def submit(self) -> None:
        """Have the model run the request."""
        self._links.model.submit(self.request, self.ticket)
        self.submitted = True

    def receive(self, delta: Delta, step: int) -> bool:
        """Take in a delta of the current attempt; return whether others may find room now."""
        request, room = self.request, False
        if request.take(delta, step):
            room = self._account(delta)
        if request.finished:
            self.finish()
            return True
        return room

    def finish(self, *, lost: bool = False) -> bool:
        """End the attempt: both services forget the request, and its place is released.

        Args:
            lost: the replica was lost to the request, which has to start again.

        Returns:
            Whether this was the end; false if the attempt had ended before.
        """
        if self.ended:
            return False
        self.ended = True
        if not self.done.done():  # its waiter may have been cancelled
            self.done.set_result(lost)
        self.mark_registered()
        handle, links = self.request.handle, self._links
        del self._table[handle]
        if self.submitted:
            if not self.request.finished:
                links.model.cancel(handle)
            links.model.release(handle)
        if self._registering:
            links.detokenizer.forget(handle)
        release_place(self.ledger, self.ticket)
        return True

    def _account(self, delta: Delta) -> bool:
        """Count a delta in the ledger; return whether others may find room now."""
        ledger, ticket, candidate = self.ledger, self.ticket, delta.candidate
        ended = bool(delta.finish)
        if tokens := len(delta.token_ids):
            ledger.grow(ticket, candidate, tokens)
        if ended:
            ledger.finish(ticket, candidate)
            if delta.matched_stop is not None and not self.request.finished:
                # The model knows nothing of stop strings.
                self._links.model.cancel(self.request.handle, candidate)
        if self.isolated and self.request.crash_record.passed_crash:
            ledger.clear(ticket)
            return True
        return ended


def release_place(ledger: Ledger, ticket: Ticket) -> None:
    """Release a place in a ledger, and note whether its deadline has passed."""
    deadline = ticket.deadline
    missed = deadline is not None and asyncio.get_running_loop().time() >= deadline
    ledger.leave(ticket, missed=missed)
