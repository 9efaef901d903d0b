"""A service from start to end: health, limits, drain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from chassis import healthcheck
from chassis.config import ServiceSettings
from chassis.errors import StartError
from chassis.links.channels import open_channel
from chassis.serving import server
from chassis.serving.server import Host, serving

WAIT_S = 20.0
MIB = 1 << 20
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
NAME = "triptych.internal.v1.ModelService"


class Stage:
    """A mount, what it was given, and what happened to it in which order."""

    def __init__(self) -> None:
        self.host: Host
        self.happened: list[str] = []
        self.handlers: dict[str, Any] = {}

    def add(self, **behaviours: Callable[[bytes, Any], Awaitable[bytes]]) -> None:
        """Have `/Test/<name>` answered."""
        for name, behaviour in behaviours.items():
            self.handlers[name] = grpc.unary_unary_rpc_method_handler(behaviour)

    @asynccontextmanager
    async def mount(self, host: Host) -> AsyncIterator[None]:
        self.host = host
        generic = grpc.method_handlers_generic_handler("Test", self.handlers)
        host.server.add_generic_rpc_handlers((generic,))
        host.services.append(NAME)
        try:
            yield
        finally:
            self.happened.append("mount closed")


def local(tmp_path: Path, **settings: Any) -> ServiceSettings:
    return ServiceSettings(listen=f"unix:{tmp_path / 'a.sock'}", **settings)


async def health(channel: aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S)
    status: int = answer.status
    return status


@pytest.mark.parametrize("service", ["", NAME])
async def test_health_is_what_the_service_says(tmp_path: Path, service: str) -> None:
    stage, settings = Stage(), local(tmp_path)
    async with (
        serving("model", stage.mount, settings),
        open_channel(settings.listen) as channel,
    ):
        # Until it says that it serves, it does not.
        assert await health(channel, service) == NOT_SERVING
        for ready, status in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
            await stage.host.set_ready(ready)
            assert stage.host.ready is ready
            assert await health(channel, service) == status


async def test_services_named_after_the_word_was_given_serve_too(tmp_path: Path) -> None:
    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        await host.set_ready(True)
        host.services.append(NAME)
        yield

    settings = local(tmp_path)
    async with serving("model", mount, settings), open_channel(settings.listen) as channel:
        assert await health(channel, NAME) == SERVING


async def test_a_watcher_is_told_that_the_service_ends(tmp_path: Path) -> None:
    stage, settings = Stage(), local(tmp_path, grace_s=WAIT_S)
    async with open_channel(settings.listen) as channel, AsyncExitStack() as service:
        await service.enter_async_context(serving("model", stage.mount, settings))
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=WAIT_S
        )
        assert (await watch.read()).status == NOT_SERVING
        await stage.host.set_ready(True)
        assert (await watch.read()).status == SERVING
        # Nor does a watcher use up the grace.
        async with asyncio.timeout(WAIT_S / 2):
            await service.aclose()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is aio.EOF


async def test_a_server_answers_health_list_and_both_versions_of_reflection(tmp_path: Path) -> None:
    settings = local(tmp_path)
    async with (
        serving("model", Stage().mount, settings),
        open_channel(settings.listen) as channel,
    ):
        for version in ("v1", "v1alpha"):
            call = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                reflection_pb2.ServerReflectionRequest.SerializeToString,
                reflection_pb2.ServerReflectionResponse.FromString,
            )(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=WAIT_S)
            (answer,) = [answer async for answer in call]
            assert {service.name for service in answer.list_services_response.service} == {
                NAME,
                "triptych.internal.v1.IntrospectionService",
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }
        list_all = channel.unary_unary("/grpc.health.v1.Health/List")
        assert NAME.encode() in await list_all(b"", timeout=WAIT_S)


async def echo(request: bytes, context: Any) -> bytes:
    return request


async def zeros(request: bytes, context: Any) -> bytes:
    return bytes(int(request))


@pytest.mark.parametrize(
    ("method", "request_of"), [("Echo", bytes), ("Zeros", lambda size: b"%d" % size)]
)
async def test_messages_are_limited_both_ways(tmp_path: Path, method: str, request_of: Any) -> None:
    stage = Stage()
    stage.add(Echo=echo, Zeros=zeros)
    settings = local(tmp_path, max_message_mib=6)
    async with (
        serving("model", stage.mount, settings),
        open_channel(settings.listen, max_message_mib=64) as channel,
    ):
        call = channel.unary_unary(f"/Test/{method}")
        assert len(await call(request_of(6 * MIB), timeout=WAIT_S)) == 6 * MIB
        with pytest.raises(aio.AioRpcError) as refused:
            await call(request_of(6 * MIB + 1), timeout=WAIT_S)
        assert refused.value.code() == StatusCode.RESOURCE_EXHAUSTED
        # And the next one is answered.
        assert await call(request_of(1), timeout=WAIT_S)


async def test_requests_may_have_a_limit_of_their_own(tmp_path: Path) -> None:
    stage = Stage()
    stage.add(Echo=echo, Zeros=zeros)
    settings = local(tmp_path, max_message_mib=6, max_request_mib=1)
    async with (
        serving("model", stage.mount, settings),
        open_channel(settings.listen, max_message_mib=64) as channel,
    ):
        with pytest.raises(aio.AioRpcError) as refused:
            await channel.unary_unary("/Test/Echo")(bytes(MIB + 1), timeout=WAIT_S)
        assert refused.value.code() == StatusCode.RESOURCE_EXHAUSTED
        zeros_of = channel.unary_unary("/Test/Zeros")
        assert len(await zeros_of(b"%d" % (6 * MIB), timeout=WAIT_S)) == 6 * MIB


class Slow:
    """A handler that says that it has started, and ends when told."""

    def __init__(self, stage: Stage) -> None:
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self._stage = stage

    async def answer(self, request: bytes, context: Any) -> bytes:
        try:
            self.started.set()
            await self.may_end.wait()
            return b"done"
        except asyncio.CancelledError:
            self._stage.happened.append("call cancelled")
            raise
        finally:
            # What a handler frees may take a turn of the loop.
            await asyncio.sleep(0)
            self._stage.happened.append("call ended")


async def refusal(channel: aio.Channel) -> StatusCode:
    """Call until calls are refused; how they are."""
    while True:
        call = channel.unary_unary("/Test/Echo")(b"", timeout=WAIT_S)
        code = await call.code()
        if code is not StatusCode.OK:
            return code


async def test_a_call_in_flight_ends_in_peace_while_new_ones_are_refused(tmp_path: Path) -> None:
    stage = Stage()
    slow = Slow(stage)
    stage.add(Slow=slow.answer, Echo=echo)
    settings = local(tmp_path, grace_s=WAIT_S)
    async with AsyncExitStack() as channels, AsyncExitStack() as service:
        await service.enter_async_context(serving("model", stage.mount, settings))
        channel = await channels.enter_async_context(open_channel(settings.listen))
        call = channel.unary_unary("/Test/Slow")(b"", timeout=WAIT_S)
        answer = asyncio.ensure_future(call)
        await slow.started.wait()
        closing = asyncio.ensure_future(service.aclose())
        other = await channels.enter_async_context(open_channel(settings.listen))
        assert await refusal(other) is StatusCode.UNAVAILABLE
        assert not closing.done()
        slow.may_end.set()
        assert await answer == b"done"
        await closing
    assert stage.happened == ["call ended", "mount closed"]


@pytest.mark.parametrize("grace_s", [0.0, 0.05])
async def test_a_call_that_outlasts_the_grace_ends_before_what_it_stands_on(
    tmp_path: Path, grace_s: float
) -> None:
    stage = Stage()
    slow = Slow(stage)
    stage.add(Slow=slow.answer)
    settings = local(tmp_path, grace_s=grace_s)
    async with open_channel(settings.listen) as channel:
        async with serving("model", stage.mount, settings):
            call = channel.unary_unary("/Test/Slow")(b"", timeout=WAIT_S)
            code = asyncio.ensure_future(call.code())
            await slow.started.wait()
        assert await code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
    assert stage.happened == ["call cancelled", "call ended", "mount closed"]


async def test_a_service_that_cannot_go_on_waits_for_no_call(tmp_path: Path) -> None:
    stage = Stage()
    slow = Slow(stage)
    stage.add(Slow=slow.answer)
    settings = local(tmp_path, grace_s=2 * WAIT_S)
    async with open_channel(settings.listen) as channel:
        async with asyncio.timeout(WAIT_S), serving("model", stage.mount, settings) as running:
            call = channel.unary_unary("/Test/Slow")(b"", timeout=WAIT_S)
            code = asyncio.ensure_future(call.code())
            await slow.started.wait()
            stage.host.end(StartError("first"))
            stage.host.end(StartError("second"))
            with pytest.raises(StartError, match="first"):
                await running.ended
        await code
    assert stage.happened == ["call cancelled", "call ended", "mount closed"]


async def test_a_caller_that_vanished_without_closing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 0.1)
    async with serving("model", Stage().mount, local(tmp_path)):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "a.sock")
        # An HTTP/2 client that greets and then answers no ping.
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
        async with asyncio.timeout(WAIT_S):
            while await reader.read(1 << 16):
                pass
        writer.close()


async def test_a_mount_that_cannot_start_leaves_no_socket(tmp_path: Path) -> None:
    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        raise StartError("no model")
        yield

    with pytest.raises(StartError, match="no model"):
        async with serving("model", mount, local(tmp_path)):
            pass
    assert os.listdir(tmp_path) == []


async def test_a_mount_that_fails_to_close_fails_after_the_server_has_stopped(
    tmp_path: Path,
) -> None:
    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        yield
        raise ZeroDivisionError

    settings = local(tmp_path)
    with pytest.raises(ZeroDivisionError):
        async with serving("model", mount, settings):
            pass
    assert os.listdir(tmp_path) == []
    assert await asyncio.to_thread(healthcheck.ask, settings.listen) == "UNAVAILABLE"


async def test_a_failing_block_stops_the_server_too(tmp_path: Path) -> None:
    stage, settings = Stage(), local(tmp_path)
    with pytest.raises(ZeroDivisionError):
        async with serving("model", stage.mount, settings):
            raise ZeroDivisionError
    assert stage.happened == ["mount closed"]
    assert await asyncio.to_thread(healthcheck.ask, settings.listen) == "UNAVAILABLE"
