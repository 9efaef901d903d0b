"""Both directions of a bidirectional stream at once, from the server's side.

Neither direction outlives the other's failure, both end with the call, and a call ends at once when
its service stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

from grpc import aio

from chassis.errors import Unavailable


async def first(context: aio.ServicerContext[Any, Any]) -> Any:
    """The first request of a stream, or None where the caller ended it without one."""
    request = await context.read()
    return None if request is aio.EOF else request


@asynccontextmanager
async def ended_by(stopping: asyncio.Event, service: str) -> AsyncIterator[None]:
    """End the block with `Unavailable` when `stopping` is set: `service` stops.

    So a peer learns at once, and by the ErrorInfo that comes with it, that nothing has crashed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(_refuse_after(stopping, service))
            yield
            watch.cancel()
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _refuse_after(stopping: asyncio.Event, service: str) -> NoReturn:
    await stopping.wait()
    raise Unavailable(f"the {service} is stopping")


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
