"""Both directions of a bidirectional stream at once, from the server's side."""

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

    A response that cannot be sent ends the sending; the caller's end of the stream, or the
    cancellation of the call that follows, ends the reading.
    """

    async def send() -> None:
        while True:
            await context.write(await next_response())

    sender = asyncio.create_task(send())
    try:
        while (request := await context.read()) is not aio.EOF:
            take(request)
    finally:
        sender.cancel()
        with suppress(asyncio.CancelledError, aio.UsageError, aio.InternalError):
            await sender
