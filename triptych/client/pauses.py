"""Steps of both clients between two tries of a call; they differ only in how they wait.

A call is made again only after UNAVAILABLE and before its first message: nothing of it was seen,
so the same request can be sent once more. A server that stops answers CANCELLED to what it has not
taken in yet, which is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from triptych.client.errors import Cancelled, DeadlineExceeded, Unavailable
from triptych.client.tries import Tries

OnRetry = Callable[[Unavailable, float], None]
"""Told what a try failed with, and for how many seconds the call pauses before the next one."""


def absence(error: Unavailable | Cancelled, *, closed: bool) -> Unavailable:
    """Failure of a try, where that was for want of a server.

    Args:
        error: its failure.
        closed: whether the client was closed, and so has cancelled it.

    Raises:
        Cancelled: `error` itself, where it was.
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


def pause_after(error: Unavailable, tries: Tries) -> float:
    """Seconds to wait before the next try.

    Raises:
        Unavailable: `error` itself, where there is no next try.
    """
    pause_s = tries.pause(error.retry_after_s or 0.0)
    if pause_s is None:
        raise error
    return pause_s


def check_timeout(error: Unavailable, tries: Tries) -> None:
    """See to it that a try after `error` has time left.

    Raises:
        DeadlineExceeded: the timeout passed during the pause.
    """
    if tries.left_s is not None and tries.left_s <= 0:
        raise DeadlineExceeded(
            f"the timeout passed; until then: {error.message}",
            address=error.address,
            status=grpc.StatusCode.DEADLINE_EXCEEDED,
            tries=tries.made,
        ) from error


def closed_during_pause(error: Unavailable) -> Cancelled:
    """Failure of a call that waited after `error` when its client was closed."""
    return Cancelled(
        "the client was closed",
        address=error.address,
        status=grpc.StatusCode.CANCELLED,
        tries=error.tries,
    )
