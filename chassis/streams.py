"""Both directions of a bidirectional stream at once, from the server's side.

Neither direction outlives the other's failure, and both end with the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from grpc import aio


async def first(context: aio.ServicerContext[Any, Any]) -> Any:
    """The first request of a stream, or None where the caller ended it without one."""
    request = await context.read()
    return None if request is aio.EOF else request


async def converse(
    context: aio.ServicerContext[Any, Any],
    take: Callable[[Any], None],
    next_response: Callable[[], Awaitable[Any]],
) -> None:
    """Hand each request to `take` and send each response of `next_response` until the caller ends.

    What `take` or `next_response` raises ends the call. A response that cannot be sent ends the
    sending; the caller's end of the stream, or the cancellation of the call that follows, ends the
    reading.
    """
    # gRPC sends these with the first response, and would again with the status where the caller
    # ended while that response was under way; such a call never ends.
    with suppress(aio.UsageError):  # sent already
        await context.send_initial_metadata(())
    try:
        async with asyncio.TaskGroup() as group:
            sender = group.create_task(_send(context, next_response))
            while (request := await context.read()) is not aio.EOF:
                take(request)
            sender.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _send(
    context: aio.ServicerContext[Any, Any], next_response: Callable[[], Awaitable[Any]]
) -> None:
    while True:
        response = await next_response()
        try:
            await context.write(response)
        except (aio.UsageError, aio.InternalError):
            return
