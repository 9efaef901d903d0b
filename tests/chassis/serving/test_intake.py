"""Requests that are held are bounded in bytes, and gone as soon as nobody needs them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode, aio
from grpc import unary_unary_rpc_method_handler as handle
from grpc_status import rpc_status

from chassis.errors import InvalidRequest, Overloaded
from chassis.serving.intake import Intake, let_request_go

WAIT_S = 20.0

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Any]]
Context = aio.ServicerContext[Any, Any]


async def echo(request: bytes, context: Context) -> bytes:
    return request


class Holding:
    """A method that keeps its requests until told to end."""

    def __init__(self, *, lets_go: bool = False) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self._lets_go = lets_go

    async def answer(self, request: bytes, context: Context) -> bytes:
        if self._lets_go:
            let_request_go()
        self.started.set()
        await self.may_end.wait()
        return b""


async def test_requests_beyond_the_bound_are_refused_until_others_end(
    open_service: OpenService,
) -> None:
    holding = Holding()
    async with open_service({"Hold": handle(holding.answer), "Other": handle(echo)}) as service:
        service.host.intake.most_bytes = 1000
        service.host.intake.methods = frozenset({"/Test/Hold"})
        call = service.channel.unary_unary("/Test/Hold")
        first = asyncio.ensure_future(call(b"a" * 600, timeout=WAIT_S))
        await holding.started.wait()
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"b" * 401, timeout=WAIT_S)
        await service.call("unary_unary", "Other")
        second = asyncio.ensure_future(call(b"c" * 400, timeout=WAIT_S))
        holding.may_end.set()
        await asyncio.gather(first, second)
        assert service.host.intake.held_bytes == 0
        await call(b"d" * 5000, timeout=WAIT_S)  # one alone has room
    status = rpc_status.from_call(refused.value)
    assert refused.value.code() == StatusCode.RESOURCE_EXHAUSTED
    assert status is not None
    assert any(box.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for box in status.details)


async def test_a_request_that_is_let_go_makes_room_before_its_call_ends(
    open_service: OpenService,
) -> None:
    holding = Holding(lets_go=True)
    async with open_service({"Hold": handle(holding.answer)}) as service:
        service.host.intake.most_bytes = 1000
        service.host.intake.methods = frozenset({"/Test/Hold"})
        call = service.channel.unary_unary("/Test/Hold")
        running = [asyncio.ensure_future(call(b"a" * 900, timeout=WAIT_S)) for _ in range(4)]
        await holding.started.wait()
        holding.may_end.set()
        await asyncio.gather(*running)
        assert service.host.intake.held_bytes == 0


def test_a_full_intake_takes_nothing_however_small() -> None:
    intake = Intake(most_bytes=10, held_bytes=10)
    with pytest.raises(Overloaded):
        intake.check()


class Message:
    """A parsed request that tells whether it is still there."""

    alive = 0

    def __init__(self, raw: bytes) -> None:
        Message.alive += 1

    def __del__(self) -> None:
        Message.alive -= 1


async def test_a_refused_calls_request_is_gone_with_it(open_service: OpenService) -> None:
    async def refuse(request: Message, context: Context) -> bytes:
        kept = request
        await asyncio.sleep(0)
        raise InvalidRequest("text", f"{kept is request}")

    method = handle(refuse, request_deserializer=Message)
    gc.disable()
    try:
        async with open_service({"Refuse": method}) as service:
            for _ in range(5):
                await service.failure("unary_unary", "Refuse")
            assert Message.alive == 0
    finally:
        gc.enable()
