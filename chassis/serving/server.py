"""One gRPC service, from start to stop.

Every `<service>/__main__.py` calls `main`; nothing else in the repository starts a server. Health,
reflection, introspection, error conversion and message limits are the same for all of them. A
service is SERVING from the moment its mount says so until a stop is requested.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

# Read by gRPC's C library when it is loaded. It would write lines for its developers to stderr, and
# wait for their reader.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import uvloop
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from chassis import config, logs, metrics
from chassis.descriptors import HEALTH, REFLECTION_V1, REFLECTION_V1ALPHA
from chassis.errors import StartError
from chassis.links.sockets import bind, release
from chassis.memory.shared_file import sweep
from chassis.serving import wire
from chassis.serving.calls import CallInterceptor, Check
from chassis.serving.health import Health, add_health
from chassis.serving.intake import Intake
from chassis.serving.introspection import Identity, Introspection, ListLinks, identify
from chassis.serving.process import (
    die_with_parent,
    open_standard_streams,
    reap_orphans,
    unless_ignored,
)
from chassis.serving.reflection import add_reflection
from protos import service_pb2, service_pb2_grpc

log = logging.getLogger(__name__)

# A caller that vanished without closing is found by these; until then its streams are alive.
KEEPALIVE_S = 10.0
KEEPALIVE_TIMEOUT_S = 10.0

# How long a call that is ended at the end of the grace has for its status, in seconds.
LAST_WORDS_S = 0.5

_NO_COMPRESSION = 1  # a bit set of algorithms; a small compressed message may be a huge one
_MOST_NAME_BYTES = 1024

S = TypeVar("S", bound=config.ServiceSettings)


@dataclass
class Host:
    """Interface between a service's mount and its server.

    Attributes:
        server: add servicers to it, and name their services in `services`.
        registry: add metrics to it.
        checks: by full method name, what its requests are checked with before they are parsed.
        intake: bounds the bytes of requests that are held.
        services: full names of the mounted gRPC services, for health and reflection.
        list_links: answers the links to other services.
        ended: done when the service cannot go on; its exception is why.
        stopping: set when a stop is requested; owners of open streams end them then.
    """

    server: aio.Server
    registry: CollectorRegistry
    checks: dict[str, Check]
    intake: Intake
    services: list[str] = field(default_factory=list)
    list_links: ListLinks = tuple
    ended: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _health: Health = field(default_factory=Health)
    _ready: bool = False

    @property
    def ready(self) -> bool:
        """Readiness that the mount reported last; False at first."""
        return self._ready

    async def set_ready(self, ready: bool) -> None:
        """Set the health of the service; the empty name stands for all of it."""
        if ready != self._ready:
            self._ready = ready
            log.info("serving" if ready else "not serving")
        self._health.set(("", *self.services), serving=ready)

    def end(self, why: BaseException) -> None:
        """End the process with `why`; the first reason counts."""
        if not self.ended.done():
            self.ended.set_exception(why)

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task of the service, whose process ends if it raises."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.end(error)

    def remove_dead_files(self) -> None:
        """Remove files of ours in shared memory that no process owns any more."""
        for name in sweep():
            log.info("removed a dead process's shared file", extra={"file": name})

    async def drain(self) -> None:
        """Report NOT_SERVING for good, and let streams end unless the service failed."""
        self._health.end()
        if not self.ended.done():
            self.stopping.set()


Mount = Callable[[Host], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Serving:
    """A running server: its address, and a future that ends when it cannot go on."""

    address: str
    ended: asyncio.Future[None]


@asynccontextmanager
async def serving(
    service: str, mount: Mount, settings: config.ServiceSettings
) -> AsyncIterator[Serving]:
    """Serve `mount` inside the block.

    On exit the service stops being SERVING, new calls are refused, calls in flight get
    `settings.grace_s` seconds (none where the service cannot go on), and only when the last has
    ended is what `mount` opened closed.

    Raises:
        StartError: the address is in use, or the mount cannot start.
    """
    registry = metrics.new_registry(settings.restarts)
    calls = CallInterceptor(service, registry)
    server = aio.server(interceptors=[calls], options=_options(settings))
    host = Host(server, registry, calls.checks, calls.intake)
    address = bind(server, settings.listen)
    try:
        async with mount(host):
            await host.set_ready(host.ready)
            _add_own_services(identify(service, settings.restarts), host)
            with metrics.served_over_http(host.registry, settings.metrics_listen):
                await server.start()
                log.info("listening", extra={"address": address})
                try:
                    yield Serving(address, host.ended)
                finally:
                    await host.drain()
                    await _stop(server, calls, 0.0 if host.ended.done() else settings.grace_s)
    finally:
        release(address)


async def _stop(server: aio.Server, calls: CallInterceptor, grace_s: float) -> None:
    """Refuse new calls, and end those that are left after `grace_s` seconds.

    Calls left then end with `Stopping`; after `LAST_WORDS_S` more gRPC cuts them off, and at once
    if there is no grace.
    """
    stopped = asyncio.ensure_future(server.stop(grace_s + LAST_WORDS_S if grace_s else 0.0))
    if grace_s:
        await asyncio.wait([stopped], timeout=grace_s)
        calls.stop()
    await stopped
    await calls.all_ended()


def _options(settings: config.ServiceSettings) -> list[tuple[str, int]]:
    most_mib = settings.max_message_mib
    most_received_mib = min(settings.max_request_mib or most_mib, most_mib)
    return [
        ("grpc.so_reuseport", 0),
        ("grpc.max_send_message_length", most_mib << 20),
        ("grpc.max_receive_message_length", most_received_mib << 20),
        ("grpc.compression_enabled_algorithms_bitset", _NO_COMPRESSION),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_S * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_S * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", 0),
    ]


def _add_own_services(identity: Identity, host: Host) -> None:
    """Add the services that every server has, beside those of its mount."""
    introspection = Introspection(identity, host.registry, lambda: host.list_links())
    service_pb2_grpc.add_IntrospectionServiceServicer_to_server(introspection, host.server)
    add_health(host.server, host._health)
    host.checks.update(_own_checks())
    add_reflection(
        host.server, (*host.services, "triptych.internal.v1.IntrospectionService", HEALTH)
    )


def _own_checks() -> dict[str, Check]:
    """Checks of the requests to them."""
    name = wire.Bound(each_bytes=_MOST_NAME_BYTES)
    health = health_pb2.HealthCheckRequest.DESCRIPTOR
    nothing = service_pb2.DescribeRequest.DESCRIPTOR
    info = reflection_pb2.ServerReflectionRequest.DESCRIPTOR
    names = {field.name: name for field in info.fields if field.message_type is None}
    reflection = wire.checking(info, names)
    return {
        f"/{HEALTH}/Check": wire.checking(health, {"service": name}),
        f"/{HEALTH}/List": wire.checking(nothing, {}),
        f"/{HEALTH}/Watch": wire.checking(health, {"service": name}),
        "/triptych.internal.v1.IntrospectionService/Describe": wire.checking(nothing, {}),
        "/triptych.internal.v1.IntrospectionService/Scrape": wire.checking(nothing, {}),
        f"/{REFLECTION_V1}/ServerReflectionInfo": reflection,
        f"/{REFLECTION_V1ALPHA}/ServerReflectionInfo": reflection,
    }


async def _run(service: str, mount: Mount, settings: config.ServiceSettings) -> None:
    """Serve until a signal requests a stop, or until the service ends itself."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGINT, signal.SIGTERM, *unless_ignored((signal.SIGHUP,))):
        loop.add_signal_handler(sig, stop.set)
    async with serving(service, mount, settings) as server:
        server.ended.add_done_callback(lambda _: stop.set())
        await stop.wait()
        log.info("stopping")
        if server.ended.done():
            server.ended.result()
    if server.ended.done():  # while it closed
        server.ended.result()


def main(service: str, settings_class: type[S], make_mount: Callable[[S], Mount]) -> None:
    """Run `service` with settings from `TRIPTYCH_<SERVICE>_*` until a stop is requested.

    It ends in order upon SIGINT and SIGTERM, and upon SIGHUP unless it was started to ignore that.
    A service that cannot start says why in one line and ends with exit code 1.
    """
    open_standard_streams()
    logs.unblock()
    prefix = f"TRIPTYCH_{service.upper()}"
    try:
        settings = config.load(settings_class, prefix)
        logs.configure(service, log_format=settings.log_format, level=settings.log_level)
        if settings.parent_pid:
            die_with_parent(settings.parent_pid)
        reap_orphans()
        uvloop.run(_run(service, make_mount(settings), settings))
    except config.WrongValue as error:
        sys.exit(f"triptych {service}: {error.under(prefix)}")
    except (config.ConfigError, StartError) as error:
        sys.exit(f"triptych {service}: {error}")
