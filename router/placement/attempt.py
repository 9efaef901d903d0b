"""One attempt at a request: its place on a replica, and how far it has come there.

It ends once: because the request has ended, or because the replica was lost to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from router.admission.demand import Ticket
from router.admission.ledger import Ledger
from router.requests.request import RouterRequest

if TYPE_CHECKING:
    from router.placement.replica import Replica


class Placement:
    """One request's place on a replica, freed once."""

    def __init__(self, replica: Replica, ledger: Ledger, ticket: Ticket) -> None:
        self.replica = replica
        self.ticket = ticket
        self.ledger = ledger

    def free(self) -> None:
        """Give the place back; nothing where that was done already."""
        deadline = self.ticket.deadline
        now = asyncio.get_running_loop().time()
        self.ledger.leave(self.ticket, missed=deadline is not None and now >= deadline)
        self.replica.changed()


class Attempt:
    """A request on the replica that it was placed on.

    Attributes:
        registered: done when the detokenizer expects it, or it is lost before that.
        over: done when it has ended; whether the request has ended with it.
        submitted: whether the model was told of it.
    """

    def __init__(self, live: RouterRequest, placement: Placement) -> None:
        loop = asyncio.get_running_loop()
        self.live = live
        self.placement = placement
        self.registered: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[bool] = loop.create_future()
        self.submitted = False

    def expect(self) -> None:
        """Note that the detokenizer expects it."""
        if not self.registered.done():
            self.registered.set_result(None)

    def end(self, *, finished: bool) -> None:
        """End it; nothing where it has ended."""
        if not self.over.done():
            self.over.set_result(finished)
        self.expect()

    @property
    def isolated(self) -> bool:
        """Whether it keeps others from starting beside it."""
        return self.placement.ledger.isolates(self.placement.ticket)

    def account(self, candidate: int, tokens: int, *, ended: bool) -> bool:
        """Count tokens of a candidate in the ledger; return whether others may find room now."""
        ledger, ticket = self.placement.ledger, self.placement.ticket
        if tokens:
            ledger.grow(ticket, candidate, tokens)
        if ended:
            ledger.finish(ticket, candidate)
        if self.isolated and self.live.crash_record.passed_crash:
            ledger.clear(ticket)
            return True
        return ended
