"""Simulated links hold, lose and break what a test says, and the two ends learn of it apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc import aio
from support.simulation.calls import MemoryCall, MemoryChannel
from support.simulation.links import Network
from support.simulation.loop import Process, SimulatedLoop
from support.simulation.streams import CLIENT_NOTICES_S, SERVER_NOTICES_S, MemoryServer, UnderWay

from protos import model_pb2, model_pb2_grpc


def said(number: int) -> model_pb2.RunRequest:
    return model_pb2.RunRequest(release=model_pb2.Release(handle=number))


class Far(model_pb2_grpc.ModelServiceServicer):
    """Answers each message with its number, and keeps all that it hears."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.handlers = 0

    async def Run(self, requests: Any, context: Any) -> None:  # noqa: N802
        self.handlers += 1
        try:
            while (request := await context.read()) is not aio.EOF:
                self.heard.append(request.release.handle)
                load = model_pb2.Load(steps=request.release.handle)
                await context.write(model_pb2.RunResponse(load=load))
        finally:
            self.handlers -= 1


class Near:
    """A caller that keeps all that it is answered."""

    def __init__(self, call: MemoryCall) -> None:
        self.call = call
        self.heard: list[int] = []
        self.end: grpc.StatusCode | None = None

    async def listen(self) -> None:
        try:
            while (response := await self.call.read()) is not aio.EOF:
                self.heard.append(response.load.steps)
        except aio.AioRpcError as error:
            self.end = error.code()


class Wire:
    """A link, and both of its ends."""

    def __init__(self) -> None:
        self.loop = SimulatedLoop()
        self.network = Network(self.loop)
        self.client, self.server = Process("client"), Process("server")
        self.link = self.network.link("link", self.client, "far")
        self.far = Far()
        self.serve()

    def serve(self) -> None:
        server = MemoryServer(self.server)
        model_pb2_grpc.add_ModelServiceServicer_to_server(self.far, server)
        self.network.serve("far", server)

    def call(self) -> Near:
        stub = model_pb2_grpc.ModelServiceStub(MemoryChannel(self.link))
        near = Near(stub.Run(wait_for_ready=True))
        self.loop.start(self.client, near.listen())
        self.loop.settle()
        return near

    def say(self, near: Near, *numbers: int) -> None:
        for number in numbers:
            self.loop.start(self.client, near.call.write(said(number)))
        self.loop.settle()


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    with wire.loop.running():
        yield wire
        wire.network.kill(wire.client)
        wire.network.kill(wire.server)


def test_a_shut_gate_lets_through_what_the_test_lets(wire: Wire) -> None:
    near = wire.call()
    wire.link.up.shut = True
    wire.say(near, 1, 2, 3)
    assert wire.far.heard == []
    assert wire.link.up.let(2) == 2
    wire.loop.settle()
    assert (wire.far.heard, near.heard) == ([1, 2], [1, 2])
    wire.link.mend()
    wire.loop.settle()
    assert near.heard == [1, 2, 3]


def test_a_cut_is_found_behind_what_was_under_way(wire: Wire) -> None:
    near = wire.call()
    wire.network.reads_before_end = True
    wire.link.up.shut = wire.link.down.shut = True
    wire.say(near, 1, 2)
    wire.link.up.let(1)
    wire.loop.settle()
    wire.link.cut()
    wire.say(near, 3)
    assert (near.end, wire.far.handlers) == (None, 1)
    wire.link.mend()
    wire.loop.settle()
    assert (wire.far.heard, wire.far.handlers) == ([1, 2], 0)
    assert (near.heard, near.end) == ([1], grpc.StatusCode.UNAVAILABLE)


def test_a_cut_may_lose_what_was_under_way(wire: Wire) -> None:
    near = wire.call()
    wire.link.up.shut = True
    wire.say(near, 1)
    wire.link.cut(UnderWay.LOST)
    wire.link.mend()
    wire.loop.settle()
    assert (wire.far.heard, near.end) == ([], grpc.StatusCode.UNAVAILABLE)


def test_a_new_call_may_begin_while_the_old_ones_messages_are_under_way(wire: Wire) -> None:
    old = wire.call()
    wire.link.up.shut = True
    wire.say(old, 1)
    wire.link.cut()
    wire.loop.settle()
    assert old.end is grpc.StatusCode.UNAVAILABLE
    new = wire.call()
    wire.say(new, 7)
    assert wire.link.up.let(1) == 1
    wire.loop.settle()
    assert (wire.far.heard, new.heard) == ([1], [])
    wire.link.mend()
    wire.loop.settle()
    assert (wire.far.heard, new.heard) == ([1, 7], [7])


def test_what_is_late_arrives_after_what_came_over_a_new_call(wire: Wire) -> None:
    old = wire.call()
    wire.network.reads_before_end = True
    wire.link.up.shut = True
    wire.say(old, 1)
    wire.link.cut(UnderWay.LATE)
    wire.link.up.shut = False
    wire.loop.settle()
    assert old.end is grpc.StatusCode.UNAVAILABLE
    new = wire.call()
    wire.say(new, 7)
    assert (wire.far.heard, wire.far.handlers) == ([7], 2)
    wire.link.up.let_late()
    wire.loop.settle()
    assert (wire.far.heard, wire.far.handlers) == ([7, 1], 1)


def test_a_stall_is_found_by_keepalive_alone_first_by_the_client(wire: Wire) -> None:
    near = wire.call()
    wire.link.stall()
    wire.say(near, 1)
    wire.loop.advance(CLIENT_NOTICES_S - 0.1)
    assert near.end is None
    wire.loop.advance(0.1)
    assert (near.end, wire.far.handlers) == (grpc.StatusCode.UNAVAILABLE, 1)
    wire.loop.advance(SERVER_NOTICES_S - CLIENT_NOTICES_S)
    assert (wire.far.handlers, wire.far.heard) == (0, [])


def test_a_short_stall_is_found_by_nobody(wire: Wire) -> None:
    near = wire.call()
    wire.link.stall()
    wire.say(near, 1)
    wire.loop.advance(CLIENT_NOTICES_S - 0.1)
    wire.link.unstall()
    wire.loop.advance(SERVER_NOTICES_S)
    assert (near.heard, near.end, wire.far.handlers) == ([1], None, 1)


def test_a_server_that_was_paused_works_off_what_came_before_its_client_left(wire: Wire) -> None:
    near = wire.call()
    wire.network.reads_before_end = True
    wire.network.pause(wire.server)
    wire.say(near, 1)
    wire.loop.advance(CLIENT_NOTICES_S)
    assert (near.end, wire.far.heard) == (grpc.StatusCode.UNAVAILABLE, [])
    again = wire.call()
    wire.network.resume(wire.server)
    wire.loop.settle()
    assert wire.far.heard == [1]
    wire.say(again, 2)
    assert (again.heard, wire.far.handlers) == ([2], 1)


def test_what_a_killed_server_had_sent_still_comes(wire: Wire) -> None:
    near = wire.call()
    wire.link.down.shut = True
    wire.say(near, 1)
    wire.network.kill(wire.server)
    wire.loop.settle()
    assert near.end is None
    wire.link.mend()
    wire.loop.settle()
    assert (near.heard, near.end) == ([1], grpc.StatusCode.UNAVAILABLE)


def test_a_call_waits_for_a_server_that_is_away(wire: Wire) -> None:
    wire.network.kill(wire.server)
    near = wire.call()
    wire.say(near, 1)
    wire.server = Process("server again")
    wire.serve()
    wire.loop.settle()
    assert near.heard == [1]


def test_a_writer_waits_for_a_reader_that_is_far_behind(wire: Wire) -> None:
    near = wire.call()
    wire.link.up.shut = True
    writes = [wire.loop.start(wire.client, near.call.write(said(i))) for i in range(9)]
    wire.loop.settle()
    assert 0 < sum(write.done() for write in writes) < 9
    wire.link.mend()
    wire.loop.settle()
    assert all(write.done() for write in writes)
    assert near.heard == list(range(9))


def test_a_handler_that_fails_for_a_bug_is_answered_without_its_text(wire: Wire) -> None:
    async def fail(requests: Any, context: Any) -> None:
        raise KeyError("a secret")

    wire.far.Run = fail  # type: ignore[method-assign]
    wire.serve()
    near = wire.call()
    assert near.end is grpc.StatusCode.INTERNAL


def test_nothing_is_left_of_calls_that_have_ended(wire: Wire) -> None:
    near = wire.call()
    assert near.call.cancel()
    wire.loop.settle()
    assert wire.link.streams == wire.link.up.lanes == wire.link.down.lanes == []
    assert wire.loop.tasks(wire.client) == wire.loop.tasks(wire.server) == []
