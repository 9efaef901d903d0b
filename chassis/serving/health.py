"""Health of a service, for callers that ask once and callers that watch.

Every watcher gets the last state, and its call ends when the service ends: gRPC's own servicer
forgets all watchers when one of them leaves, and makes a server that stops wait for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.descriptors import HEALTH, health_message
from chassis.errors import NotFound

Context = aio.ServicerContext[Any, Any]
Response = health_pb2.HealthCheckResponse

SELF = HEALTH
"""SERVING for as long as the process answers and is not stopping, whatever else it lacks."""

_ListRequest: Any = health_message("HealthListRequest")
_ListResponse: Any = health_message("HealthListResponse")


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answer `grpc.health.v1.Health`."""

    def __init__(self) -> None:
        self._statuses: dict[str, Any] = {"": Response.NOT_SERVING, SELF: Response.SERVING}
        self._changed = asyncio.Event()
        self._ended = False

    def set(self, services: Iterable[str], *, serving: bool) -> None:
        """Set the health of `services`; ignored once the service ends."""
        if not self._ended:
            status = Response.SERVING if serving else Response.NOT_SERVING
            self._statuses.update(dict.fromkeys(services, status))
            self._wake()

    def end(self) -> None:
        """Set NOT_SERVING for good, and end the watches."""
        self.set(list(self._statuses), serving=False)
        self._ended = True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(  # noqa: N802  (name fixed by the proto)
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Send the health of one service."""
        if request.service not in self._statuses:
            raise NotFound(f"no service {request.service!r} here")
        return Response(status=self._statuses[request.service])

    async def Watch(  # noqa: N802  (name fixed by the proto)
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> None:
        """Send the health of one service, and again whenever it changes."""
        sent = None
        while True:
            changed, ended = self._changed, self._ended
            status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
            if status != sent:
                sent = status
                await context.write(Response(status=status))
            elif ended:
                return
            else:
                await changed.wait()

    async def List(self, request: Any, context: Context) -> Any:  # noqa: N802  (fixed by the proto)
        """Send the health of all services."""
        response = _ListResponse()
        for service, status in self._statuses.items():
            response.statuses[service].status = status
        return response


def add_health(server: aio.Server, health: Health) -> None:
    """Have `server` answer all of `grpc.health.v1.Health`."""
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    handler = grpc.unary_unary_rpc_method_handler(
        health.List, _ListRequest.FromString, _ListResponse.SerializeToString
    )
    handlers = grpc.method_handlers_generic_handler(HEALTH, {"List": handler})
    server.add_generic_rpc_handlers((handlers,))
