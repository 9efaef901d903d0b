"""A service of its own for each test, over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from chassis.config import ServiceSettings
from chassis.links.channels import open_channel
from chassis.serving.server import Host, serving

WAIT_S = 20.0


class Caller:
    """A channel to the service `Test`, and how to call it in each kind of method."""

    def __init__(self, channel: aio.Channel, host: Host) -> None:
        self.channel = channel
        self.host = host

    async def call(self, kind: str, method: str) -> list[bytes]:
        """All replies of a call whose one request is empty."""
        stub = getattr(self.channel, kind)(f"/Test/{method}")
        running = stub(iter([b""]) if kind.startswith("stream") else b"", timeout=WAIT_S)
        if kind.endswith("unary"):
            return [await running]
        return [reply async for reply in running]

    async def failure(self, kind: str, method: str) -> aio.AioRpcError:
        """What such a call fails of."""
        with pytest.raises(aio.AioRpcError) as failed:
            await self.call(kind, method)
        return failed.value


OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[Caller]]


@pytest.fixture
def open_service(tmp_path: Path) -> OpenService:
    """Serve handlers of bytes as `/Test/<name>`; what it opens is a caller of them."""
    settings = ServiceSettings(listen=f"unix:{tmp_path / 'service.sock'}", grace_s=0)

    @asynccontextmanager
    async def opened(handlers: Mapping[str, Any]) -> AsyncIterator[Caller]:
        hosts: list[Host] = []

        @asynccontextmanager
        async def mount(host: Host) -> AsyncIterator[None]:
            generic = grpc.method_handlers_generic_handler("Test", dict(handlers))
            host.server.add_generic_rpc_handlers((generic,))
            hosts.append(host)
            yield

        async with (
            serving("router", mount, settings),
            open_channel(settings.listen) as channel,
        ):
            yield Caller(channel, hosts[0])

    return opened
