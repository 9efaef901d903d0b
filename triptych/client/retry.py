"""Retries of a call that finds no server: their number, and the pauses between them.

A call is made again only after UNAVAILABLE and before its first message: the client has seen
nothing of it, so the same request can be sent once more. A stopping server answers CANCELLED to
calls that it has not begun, which counts as UNAVAILABLE. No try begins later than `retry_s` after
the first failure, and no pause reaches beyond the call's timeout. Nothing here waits: both clients
do that.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc

from chassis.backoff import Backoff
from triptych.client.errors import Cancelled, DeadlineExceeded, Unavailable

OnRetry = Callable[[Unavailable, float], None]
"""Called before each retry with the failure and the seconds of the pause."""

RETRY_S = 10.0
FIRST_PAUSE_S = 0.1
MOST_PAUSE_S = 1.0
_LONGEST_S = 1e8  # three years; much more overflows in gRPC and would have passed at once


class Tries:
    """Tries of one call, whose time starts now.

    Args:
        timeout: seconds that all tries may take together; None: no limit.
        retry_s: seconds after the first failure in which another try may begin; 0: none.
        clock: monotonic seconds.
        draw: a random number in [0, 1).

    Attributes:
        made: tries begun so far.
    """

    def __init__(
        self,
        timeout: float | None,
        retry_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.made = 0
        self._retry_s = retry_s
        self._clock = clock
        self._draw = draw
        if timeout is not None and timeout > _LONGEST_S:
            timeout = None
        self._ends_at = None if timeout is None else clock() + timeout
        self._gives_up_at: float | None = None
        self._pauses = Backoff(FIRST_PAUSE_S, MOST_PAUSE_S)

    @property
    def left_s(self) -> float | None:
        """Rest of the timeout, in seconds; None: no limit."""
        return None if self._ends_at is None else self._ends_at - self._clock()

    def begin(self) -> float | None:
        """Count another try; the seconds that it may take, or None for no limit."""
        self.made += 1
        return self.left_s

    def pause(self, advised_s: float = 0.0) -> float | None:
        """Seconds to wait before the next try, the last one having just failed.

        Pauses double up to a limit; a random part of up to one half is left out, so that clients of
        one lost server do not come back together.

        Args:
            advised_s: seconds that the server asked to wait; the pause is added to them.

        Returns:
            None if there is no next try.
        """
        now = self._clock()
        if self._gives_up_at is None:
            self._gives_up_at = now + self._retry_s
        until_given_up_s = self._gives_up_at - now
        if not until_given_up_s > 0:
            return None
        step_s = self._pauses.next_s() * (1 - self._draw() / 2)
        pause_s = min(advised_s + step_s, until_given_up_s)
        return pause_s if self._ends_at is None else min(pause_s, max(0.0, self._ends_at - now))

    def pause_after(self, error: Unavailable) -> float:
        """Seconds to wait before the next try.

        Raises:
            Unavailable: `error` itself, if there is no next try.
        """
        pause_s = self.pause(error.retry_after_s or 0.0)
        if pause_s is None:
            raise error
        return pause_s

    def check_timeout(self, error: Unavailable) -> None:
        """Check that a try after `error` has time left.

        Raises:
            DeadlineExceeded: the timeout passed during the pause.
        """
        if self.left_s is not None and self.left_s <= 0:
            raise DeadlineExceeded(
                f"the timeout passed; until then: {error.message}",
                address=error.address,
                status=grpc.StatusCode.DEADLINE_EXCEEDED,
                tries=self.made,
            ) from error


def as_unavailable(error: Unavailable | Cancelled, *, closed: bool) -> Unavailable:
    """Failure of a try that found no server, as UNAVAILABLE.

    Args:
        error: the try's failure.
        closed: True if the client was closed, which cancels its calls.

    Raises:
        Cancelled: `error` itself, if the client was closed.
    """
    if isinstance(error, Unavailable):
        return error
    if closed:
        raise error
    return Unavailable(
        f"the server is stopping: {error.message}",
        address=error.address,
        status=grpc.StatusCode.UNAVAILABLE,
        tries=error.tries,
    )


def closed_during_pause(error: Unavailable) -> Cancelled:
    """Failure of a call that waited after `error` when its client was closed."""
    return Cancelled(
        "the client was closed",
        address=error.address,
        status=grpc.StatusCode.CANCELLED,
        tries=error.tries,
    )
