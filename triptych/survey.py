"""Ask a running deployment who takes part in it and how it does.

The router is asked first and names the others; one of those that cannot be reached from here is
reported as the router sees it, without what only it could tell.
"""

from __future__ import annotations

import asyncio
import platform
from dataclasses import asdict, dataclass
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.channels import open_channel
from protos import service_pb2, service_pb2_grpc
from triptych.client import AsyncClient, Load, Model
from triptych.client.failures import typed_errors

_ANSWER_S = 5.0
_TRANSPORTS = {
    service_pb2.TRANSPORT_SHARED_MEMORY: "shared-memory",
    service_pb2.TRANSPORT_INLINE: "inline",
}


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service.

    Attributes:
        name: router, tokenizer, model or detokenizer.
        address: where it serves.
        ready: whether it answers; for the router, whether it takes requests.
        pid: of its process, where that runs on this machine.
        transport: how bulk data travels between it and the router; None for the router itself, and
            where that is not agreed yet.
        uptime_s: since its process started; None where it cannot be reached from here.
    """

    name: str
    address: str
    ready: bool
    pid: int | None
    transport: str | None
    uptime_s: float | None


@dataclass(frozen=True, slots=True)
class Survey:
    """A deployment at one moment."""

    services: tuple[ServiceState, ...]
    models: tuple[Model, ...]
    load: Load

    def as_json(self) -> dict[str, Any]:
        """Plain data; keys are only ever added."""
        return {
            "services": [asdict(service) for service in self.services],
            "models": [asdict(model) for model in self.models],
            "kv_slots": {"used": self.load.kv_slots_used, "total": self.load.kv_slots_total},
            "queued": self.load.queued,
            "running": self.load.running,
            "replicas": [asdict(replica) for replica in self.load.replicas],
        }


async def take(address: str) -> Survey:
    """Ask the router at `address`, then each service it names.

    Raises:
        TriptychError: the router does not answer.
    """
    async with AsyncClient(address) as client, open_channel(address) as channel:
        with typed_errors(address):
            ready = await _serves(channel)
            described = await _describe(channel)
        states = await asyncio.gather(*(_linked(link) for link in described.links))
        router = _state(described, address, ready=ready, transport=None)
        return Survey(
            services=(router, *states),
            models=await client.models(timeout=_ANSWER_S) if ready else (),
            load=await client.load(timeout=_ANSWER_S),
        )


async def _serves(channel: aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _describe(channel: aio.Channel) -> service_pb2.DescribeResponse:
    stub: service_pb2_grpc.IntrospectionServiceAsyncStub = (
        service_pb2_grpc.IntrospectionServiceStub(channel)
    )
    return await stub.Describe(service_pb2.DescribeRequest(), timeout=_ANSWER_S)


async def _linked(link: service_pb2.Link) -> ServiceState:
    transport = _TRANSPORTS.get(link.transport)
    try:
        async with open_channel(link.address) as channel:
            described = await _describe(channel)
    except grpc.RpcError:
        return ServiceState(link.service, link.address, link.ready, None, transport, None)
    return _state(described, link.address, ready=link.ready, transport=transport)


def _state(
    described: service_pb2.DescribeResponse, address: str, *, ready: bool, transport: str | None
) -> ServiceState:
    here = described.host == platform.node()
    return ServiceState(
        name=described.service,
        address=address,
        ready=ready,
        pid=described.pid if here else None,
        transport=transport,
        uptime_s=round(described.uptime_s, 3),
    )
