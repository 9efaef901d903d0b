"""Introspection of a service: its identity, its links and its metrics."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from grpc import aio
from prometheus_client import CollectorRegistry, generate_latest

from protos import service_pb2, service_pb2_grpc

ListLinks = Callable[[], Sequence[service_pb2.Link]]


def triptych_version() -> str:
    """The installed version; `0+source` where the package runs from a checkout uninstalled."""
    try:
        return version("triptych")
    except PackageNotFoundError:
        return "0+source"


def transport(shared: bool) -> service_pb2.Transport.ValueType:
    """Name of the transport of bulk data."""
    if shared:
        return service_pb2.TRANSPORT_SHARED_MEMORY
    return service_pb2.TRANSPORT_INLINE


def medium(shared: bool) -> str:
    """Name of the transport of bulk data, for the log."""
    return "shared memory" if shared else "messages"


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity of the process that answers."""

    service: str
    started: float
    restarts: int


def identify(service: str, restarts: int) -> Identity:
    """Identity of this process as `service`, after so many `restarts`."""
    return Identity(service, time.monotonic(), restarts)


class Introspection(service_pb2_grpc.IntrospectionServiceServicer):
    """Answer `triptych.internal.v1.IntrospectionService`."""

    def __init__(
        self, identity: Identity, registry: CollectorRegistry, list_links: ListLinks
    ) -> None:
        self._identity = identity
        self._registry = registry
        self._list_links = list_links

    async def Describe(  # noqa: N802  (name fixed by the proto)
        self, request: service_pb2.DescribeRequest, context: aio.ServicerContext[Any, Any]
    ) -> service_pb2.DescribeResponse:
        """Send the identity and the links of the service."""
        return service_pb2.DescribeResponse(
            service=self._identity.service,
            pid=os.getpid(),
            host=platform.node(),
            version=triptych_version(),
            uptime_s=time.monotonic() - self._identity.started,
            links=self._list_links(),
            restarts=self._identity.restarts,
        )

    async def Scrape(  # noqa: N802  (name fixed by the proto)
        self, request: service_pb2.ScrapeRequest, context: aio.ServicerContext[Any, Any]
    ) -> service_pb2.ScrapeResponse:
        """Answer the metrics."""
        return service_pb2.ScrapeResponse(text=generate_latest(self._registry))
