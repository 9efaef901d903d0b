"""One way to open a channel, whatever the address is of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.deployments.name_server import name_server

from chassis.config import ServiceSettings
from chassis.links import channels
from chassis.links.channels import open_channel
from chassis.serving.server import Host, serving

WAIT_S = 20.0


@asynccontextmanager
async def mount(host: Host) -> AsyncIterator[None]:
    await host.set_ready(True)
    yield


async def ask(channel: aio.Channel) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S, wait_for_ready=True)
    status: int = answer.status
    return status


@pytest.mark.parametrize("listen", ["unix:{folder}/service.sock", "127.0.0.1:0"])
async def test_connects_to_sockets_and_ports_alike(tmp_path: Path, listen: str) -> None:
    settings = ServiceSettings(listen=listen.format(folder=tmp_path))
    async with (
        serving("router", mount, settings) as server,
        open_channel(server.address) as channel,
    ):
        assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING


async def test_a_proxy_of_the_environment_is_not_for_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with (
        serving("router", mount, ServiceSettings(listen="127.0.0.1:0")) as server,
        open_channel(server.address) as channel,
    ):
        assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING


async def test_a_channel_finds_a_service_that_came_back(tmp_path: Path) -> None:
    settings = ServiceSettings(listen=f"unix:{tmp_path}/service.sock", grace_s=0)
    async with open_channel(settings.listen) as channel:
        for _ in range(2):
            async with serving("router", mount, settings):
                assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(aio.AioRpcError) as away:
                await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=WAIT_S
                )
            assert away.value.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_service_that_came_back_elsewhere_under_its_name_is_found_soon() -> None:
    async with name_server() as names:
        names.addresses["model.test"] = "127.0.0.2"
        async with serving("router", mount, ServiceSettings(listen="127.0.0.2:0")) as first:
            port = first.address.rpartition(":")[2]
            channel = open_channel(f"{names.authority}model.test:{port}")
            assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING
        del names.addresses["model.test"]
        with pytest.raises(aio.AioRpcError):  # by now the name has been looked up in vain
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        names.addresses["model.test"] = "127.0.0.3"
        async with channel, serving("router", mount, ServiceSettings(listen=f"127.0.0.3:{port}")):
            assert await ask(channel) == health_pb2.HealthCheckResponse.SERVING


async def test_a_service_that_vanished_without_closing_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(channels, "KEEPALIVE_TIMEOUT_S", 0.1)
    held = []

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # An HTTP/2 server that greets, acknowledges the greeting, and then answers nothing.
        writer.write(b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0")
        held.append(writer)

    path = tmp_path / "service.sock"
    async with (
        await asyncio.start_unix_server(greet, path),
        open_channel(f"unix:{path}") as channel,
    ):
        # Without a deadline: only the keepalive can end it.
        call = channel.stream_stream("/Test/Talk")()
        assert await asyncio.wait_for(call.code(), WAIT_S) == grpc.StatusCode.UNAVAILABLE
        for writer in held:
            writer.close()


async def test_an_answer_larger_than_the_channel_takes_is_refused(tmp_path: Path) -> None:
    settings = ServiceSettings(listen=f"unix:{tmp_path}/service.sock", max_message_mib=8)

    async def answer(request: bytes, context: aio.ServicerContext[bytes, bytes]) -> bytes:
        return bytes(int(request))

    @asynccontextmanager
    async def mount_bytes(host: Host) -> AsyncIterator[None]:
        method = grpc.unary_unary_rpc_method_handler(answer)
        handler = grpc.method_handlers_generic_handler("Test", {"Bytes": method})
        host.server.add_generic_rpc_handlers((handler,))
        yield

    async with (
        serving("router", mount_bytes, settings),
        open_channel(settings.listen, max_message_mib=6) as channel,
    ):
        call = channel.unary_unary("/Test/Bytes")
        assert len(await call(b"%d" % (6 << 20), timeout=WAIT_S)) == 6 << 20
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"%d" % ((6 << 20) + 1), timeout=WAIT_S)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
