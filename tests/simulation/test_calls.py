"""Calls over simulated links end, fail and break as calls over sockets do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from support.deployments.routers import served, severable
from support.simulation.calls import MemoryChannel
from support.simulation.links import Network
from support.simulation.loop import Process, SimulatedLoop
from support.simulation.streams import MemoryServer

from chassis.errors import InvalidRequest, Unavailable, error_info
from chassis.links.channels import open_channel
from protos import detokenizer_pb2, detokenizer_pb2_grpc, model_pb2, model_pb2_grpc

HELLO = model_pb2.RunRequest(hello=model_pb2.Hello(router=7))
LOAD = model_pb2.RunResponse(load=model_pb2.Load(steps=3))
PATIENCE_S = 10

Handler = Callable[[Any], Awaitable[None]]


class Servicer(
    model_pb2_grpc.ModelServiceServicer, detokenizer_pb2_grpc.DetokenizerServiceServicer
):
    """Answers Run as a test says, and Decode with text."""

    def __init__(self) -> None:
        self.handler: Handler
        self.ended: asyncio.Future[BaseException | None] | None = None

    async def Run(self, requests: Any, context: Any) -> None:  # noqa: N802
        self.ended = asyncio.get_running_loop().create_future()
        error: BaseException | None = None
        try:
            await self.handler(context)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.ended.set_result(error)

    async def Decode(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not request.token_ids:
            raise InvalidRequest("token_ids", "there are none")
        return detokenizer_pb2.DecodeResponse(text="text")


@dataclass
class World:
    """A client's channel to a servicer, another to nobody, and what breaks the first."""

    channel: Any
    nowhere: Any
    cut: Callable[[], None]
    servicer: Servicer = field(default_factory=Servicer)

    def run(self, handler: Handler) -> Any:
        """Call Run, which `handler` answers."""
        self.servicer.handler = handler
        return model_pb2_grpc.ModelServiceStub(self.channel).Run(wait_for_ready=True)

    async def handler_ended(self) -> BaseException | None:
        """How the handler ended."""
        async with asyncio.timeout(PATIENCE_S):
            assert self.servicer.ended is not None
            return await self.servicer.ended


Scenario = Callable[[World], Awaitable[None]]


def add(servicer: Servicer, to: Any) -> None:
    model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, to)
    detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(servicer, to)


def over_sockets(scenario: Scenario, folder: Path) -> None:
    async def play() -> None:
        servicer, address = Servicer(), folder / "far.sock"
        async with (
            served("model", lambda to: add(servicer, to), f"unix:{address}"),
            severable(folder / "near.sock", address) as cut,
            open_channel(f"unix:{folder}/near.sock") as channel,
            open_channel(f"unix:{folder}/nowhere.sock") as nowhere,
        ):
            await scenario(World(channel, nowhere, cut, servicer))

    asyncio.run(play())


def simulated(scenario: Scenario, folder: Path) -> None:
    loop, servicer = SimulatedLoop(), Servicer()
    network, client, process = Network(loop), Process("client"), Process("server")
    server = MemoryServer(process)
    add(servicer, server)
    network.serve("address", server)
    link = network.link("link", client, "address")
    with loop.running():
        nowhere = MemoryChannel(network.link("nowhere", client, "nowhere"))
        world = World(MemoryChannel(link), nowhere, link.cut, servicer)
        task = loop.start(client, scenario(world))
        loop.settle()
        while not task.done():
            assert loop.advance_to_next_timer()
        task.result()
        loop.kill(client)
        loop.kill(process)


@pytest.fixture(params=[over_sockets, simulated])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scenario], None]:
    return lambda scenario: request.param(scenario, tmp_path)


async def failure(call: Any) -> aio.AioRpcError:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await call
    except aio.AioRpcError as error:
        return error
    raise AssertionError("it did not fail")


def test_messages_pass_both_ways_until_the_server_ends(play) -> None:
    async def answer(context: Any) -> None:
        while (request := await context.read()).hello.router != 9:
            await context.write(model_pb2.RunResponse(load={"steps": request.hello.router}))

    async def scenario(world: World) -> None:
        call = world.run(answer)
        for router in (7, 8, 9):
            await call.write(model_pb2.RunRequest(hello={"router": router}))
        assert [(await call.read()).load.steps for _ in range(2)] == [7, 8]
        assert await call.read() is aio.EOF
        assert await call.read() is aio.EOF
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(HELLO)

    play(scenario)


def test_a_failure_comes_behind_the_messages_and_says_its_reason(play) -> None:
    async def answer(context: Any) -> None:
        await context.write(LOAD)
        raise Unavailable("stopping")

    async def scenario(world: World) -> None:
        call = world.run(answer)
        assert await call.read() == LOAD
        error = await failure(call.read())
        info = error_info(error)
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "stopping")
        assert info is not None
        assert info.reason == "UNAVAILABLE"
        assert await call.code() is grpc.StatusCode.UNAVAILABLE
        assert isinstance(await world.handler_ended(), Unavailable)

    play(scenario)


def test_what_is_written_after_a_failure_fails_like_the_call(play) -> None:
    async def answer(context: Any) -> None:
        raise InvalidRequest("hello", "not today")

    async def scenario(world: World) -> None:
        call = world.run(answer)
        error = await failure(call.read())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(asyncio.InvalidStateError):
            await call.write(HELLO)

    play(scenario)


def test_a_client_that_cancels_cancels_the_handler_and_its_own_reading(play) -> None:
    async def answer(context: Any) -> None:
        await context.write(LOAD)
        await asyncio.Event().wait()

    async def scenario(world: World) -> None:
        call = world.run(answer)
        assert await call.read() == LOAD
        assert call.cancel()
        assert not call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        assert isinstance(await world.handler_ended(), asyncio.CancelledError)

    play(scenario)


def test_whoever_is_cancelled_while_reading_cancels_the_call(play) -> None:
    async def answer(context: Any) -> None:
        await context.write(LOAD)
        await asyncio.Event().wait()

    async def scenario(world: World) -> None:
        call = world.run(answer)
        assert await call.read() == LOAD
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await call.read()
        assert call.cancelled()
        assert isinstance(await world.handler_ended(), asyncio.CancelledError)

    play(scenario)


def test_a_broken_connection_ends_both_sides_and_says_no_reason(play) -> None:
    async def answer(context: Any) -> None:
        await context.write(LOAD)
        await asyncio.Event().wait()

    async def scenario(world: World) -> None:
        call = world.run(answer)
        assert await call.read() == LOAD
        world.cut()
        error = await failure(call.read())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(error) is None
        assert isinstance(await world.handler_ended(), asyncio.CancelledError)
        again = world.run(answer)
        assert await again.read() == LOAD
        again.cancel()

    play(scenario)


def test_a_handler_says_its_metadata_once(play) -> None:
    async def answer(context: Any) -> None:
        await context.write(LOAD)
        with pytest.raises(aio.UsageError):
            await context.send_initial_metadata(())

    async def scenario(world: World) -> None:
        call = world.run(answer)
        assert await call.read() == LOAD
        assert await call.read() is aio.EOF
        assert await world.handler_ended() is None

    play(scenario)


def test_a_single_answer_comes_or_fails(play) -> None:
    async def scenario(world: World) -> None:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(world.channel)
        request = detokenizer_pb2.DecodeRequest(token_ids=[1])
        answer = await stub.Decode(request, timeout=PATIENCE_S, wait_for_ready=True)
        assert answer.text == "text"
        error = await failure(stub.Decode(detokenizer_pb2.DecodeRequest(), timeout=PATIENCE_S))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(scenario)


def test_without_a_server_a_call_fails_unless_it_waits(play) -> None:
    async def scenario(world: World) -> None:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(world.nowhere)
        request = detokenizer_pb2.DecodeRequest(token_ids=[1])
        error = await failure(stub.Decode(request, timeout=PATIENCE_S))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error_info(error) is None
        error = await failure(stub.Decode(request, timeout=0.2, wait_for_ready=True))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    play(scenario)
