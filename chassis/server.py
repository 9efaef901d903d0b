"""Run one gRPC service until it is told to stop.

Every `<service>/__main__.py` calls `main`; nothing else in the repository starts a server. Health,
reflection, introspection, error conversion and message limits are the same for all of them. A
service is SERVING from the moment its mount says so until it is told to stop.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import uvloop
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from chassis import config, logs, metrics
from chassis.errors import ErrorInterceptor, StartError
from chassis.introspection import Introspection, ListLinks, identify
from chassis.process import die_with_parent
from chassis.sockets import bind, release
from protos import service_pb2_grpc

log = logging.getLogger(__name__)

S = TypeVar("S", bound=config.ServiceSettings)


@dataclass
class Host:
    """What a service's mount builds on.

    Attributes:
        server: add servicers to it, and name their services in `services`.
        registry: add metrics to it.
        services: full names of the mounted gRPC services, for health and reflection.
        list_links: answers the links to other services.
        ended: done when the service cannot go on; its exception is why.
    """

    server: aio.Server
    registry: CollectorRegistry
    services: list[str] = field(default_factory=list)
    list_links: ListLinks = tuple
    ended: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _health: health_aio.HealthServicer = field(default_factory=health_aio.HealthServicer)
    _ready: bool = False

    async def set_ready(self, ready: bool) -> None:
        """Tell health checks whether the service serves; the empty name stands for it whole."""
        if ready != self._ready:
            self._ready = ready
            log.info("serving" if ready else "not serving")
        status = health_pb2.HealthCheckResponse.SERVING
        if not ready:
            status = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self.services):
            await self._health.set(name, status)

    def end(self, why: BaseException) -> None:
        """Have the process end with `why`; the first reason counts."""
        if not self.ended.done():
            self.ended.set_exception(why)

    async def drain(self) -> None:
        """Tell health checks for good that the service ends."""
        await self._health.enter_graceful_shutdown()


Mount = Callable[[Host], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Serving:
    """A running server: where it is bound, and what ends when it cannot go on."""

    address: str
    ended: asyncio.Future[None]


@asynccontextmanager
async def serving(
    service: str, mount: Mount, settings: config.ServiceSettings
) -> AsyncIterator[Serving]:
    """Serve `mount` inside the block.

    On exit the service stops being SERVING, new calls are refused, calls in flight get
    `settings.grace_s` seconds, and only then is what `mount` opened closed.

    Raises:
        StartError: the address is in use, or the mount cannot start.
    """
    limit = settings.max_message_mib << 20
    server = aio.server(
        interceptors=[ErrorInterceptor()],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.max_send_message_length", limit),
            ("grpc.max_receive_message_length", limit),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_ping_strikes", 0),
        ],
    )
    host = Host(server, metrics.new_registry())
    address = bind(server, settings.listen)
    async with mount(host):
        introspection = Introspection(identify(service), host.registry, lambda: host.list_links())
        service_pb2_grpc.add_IntrospectionServiceServicer_to_server(introspection, server)
        health_pb2_grpc.add_HealthServicer_to_server(host._health, server)
        names: Sequence[str] = (*host.services, "triptych.internal.v1.IntrospectionService")
        reflected = (*names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(reflected, server)
        with metrics.served_over_http(host.registry, settings.metrics_listen):
            await server.start()
            log.info("listening", extra={"address": address})
            try:
                yield Serving(address, host.ended)
            finally:
                await host.drain()
                await server.stop(settings.grace_s)
                release(address)


async def _run(service: str, mount: Mount, settings: config.ServiceSettings) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sig, stop.set)
    async with serving(service, mount, settings) as server:
        server.ended.add_done_callback(lambda _: stop.set())
        await stop.wait()
        log.info("stopping")
        if server.ended.done():
            server.ended.result()
        server.ended.cancel()


def main(service: str, settings_class: type[S], make_mount: Callable[[S], Mount]) -> None:
    """Run `service` with settings from `TRIPTYCH_<SERVICE>_*` until it is told to stop.

    A service that cannot start says why in one line and ends with exit code 1.
    """
    prefix = f"TRIPTYCH_{service.upper()}"
    try:
        settings = config.load(settings_class, prefix)
        logs.configure(service, log_format=settings.log_format, level=settings.log_level)
        if settings.parent_pid:
            die_with_parent(settings.parent_pid)
        uvloop.run(_run(service, make_mount(settings), settings))
    except config.WrongValue as error:
        sys.exit(f"triptych {service}: {error.under(prefix)}")
    except (config.ConfigError, StartError) as error:
        sys.exit(f"triptych {service}: {error}")
