"""A service of its own for each test, over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from chassis.channels import open_channel
from chassis.config import ServiceSettings
from chassis.server import Host, serving

OpenService = Callable[[Mapping[str, Any]], AbstractAsyncContextManager[aio.Channel]]


@pytest.fixture
def open_service(tmp_path: Path) -> OpenService:
    """Serve handlers of bytes as `/Test/<name>`; what it opens is a channel to them."""
    settings = ServiceSettings(listen=f"unix:{tmp_path / 'service.sock'}", grace_s=0)

    @asynccontextmanager
    async def opened(handlers: Mapping[str, Any]) -> AsyncIterator[aio.Channel]:
        @asynccontextmanager
        async def mount(host: Host) -> AsyncIterator[None]:
            generic = grpc.method_handlers_generic_handler("Test", dict(handlers))
            host.server.add_generic_rpc_handlers((generic,))
            yield

        async with (
            serving("router", mount, settings),
            open_channel(settings.listen) as channel,
        ):
            yield channel

    return opened
