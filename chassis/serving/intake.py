"""The bytes of requests that calls hold, and their bound.

A request counts until its call ends, or has let it go.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from chassis.errors import Overloaded


@dataclass(slots=True)
class Intake:
    """The bytes of requests that are held, and their bound.

    Attributes:
        most_bytes: that may be held.
        methods: full names of those whose requests count; others are never refused.
        held_bytes: that are held now.
    """

    most_bytes: int = 0
    methods: frozenset[str] = frozenset()
    held_bytes: int = 0

    def check(self, more: int = 0) -> None:
        """Check that there is room for `more` bytes; one request has room, however large.

        Raises:
            Overloaded: there is none.
        """
        held, most = self.held_bytes, self.most_bytes
        if held and held + max(more, 1) > most:
            found = f": {more} more find no room" if more else ""
            raise Overloaded(f"requests of {held} bytes are held, and {most} may be{found}")


class Hold:
    """The bytes of one request, until they are released."""

    def __init__(self, intake: Intake, size: int) -> None:
        """Take `size` bytes of `intake`, as `hold_request` says."""
        if size:
            intake.check(size)
        intake.held_bytes += size
        self._intake = intake
        self._size = size

    def let_go(self) -> None:
        """Release the bytes, once."""
        self._intake.held_bytes -= self._size
        self._size = 0


_hold: ContextVar[Hold] = ContextVar("hold")


def hold_request(intake: Intake, size: int) -> Hold:
    """Hold the request of the running call, of `size` bytes; 0: none that count.

    Raises:
        Overloaded: there is no room for them.
    """
    hold = Hold(intake, size)
    _hold.set(hold)
    return hold


def let_request_go() -> None:
    """Release the bytes of the running call's request."""
    hold = _hold.get(None)
    if hold is not None:
        hold.let_go()
