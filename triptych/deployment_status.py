"""State of a running deployment: its services, models and load.

The router is asked first and names the others; one of those that cannot be reached from here is
reported as the router sees it, without details that only it knows. A proxy may pass on only what
clients ask; then the router is known by its health, its models and its load.
"""

from __future__ import annotations

import asyncio
import itertools
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.links.channels import open_channel
from protos import service_pb2, service_pb2_grpc
from triptych.client import AsyncClient, Load, Model
from triptych.client.errors import decoded, typed_errors
from triptych.recovery import Recovery, read_from, summed

_ANSWER_S = 5.0
_TRANSPORTS = {
    service_pb2.TRANSPORT_SHARED_MEMORY: "shared-memory",
    service_pb2.TRANSPORT_INLINE: "inline",
}
_OF_REPLICAS = ("model", "detokenizer")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service.

    Attributes:
        name: router, tokenizer, model or detokenizer.
        address: where it serves.
        ready: whether it answers, as the router sees it; for the router, whether it takes requests.
        pid: of its process, where that runs on this machine.
        transport: how bulk data travels between it and the router; None for the router itself, and
            where that is not agreed yet.
        uptime_s: since its process started; None where it cannot be reached from here.
        replica: which it belongs to, from 0; None for what serves them all.
        restarts: how often it was started again; None where it cannot be reached from here.
    """

    name: str
    address: str
    ready: bool
    pid: int | None
    transport: str | None
    uptime_s: float | None
    replica: int | None = None
    restarts: int | None = None

    @property
    def reached(self) -> bool:
        """True if it answered by itself."""
        return self.uptime_s is not None


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """A deployment at one moment; `recovery` is summed over the services that were reached."""

    services: tuple[ServiceState, ...]
    models: tuple[Model, ...]
    load: Load
    recovery: Recovery

    def as_json(self) -> dict[str, Any]:
        """Plain data; keys are only ever added."""
        return {
            "services": [asdict(service) for service in self.services],
            "models": [asdict(model) for model in self.models],
            "kv_slots": {"used": self.load.kv_slots_used, "total": self.load.kv_slots_total},
            "queued": self.load.queued,
            "running": self.load.running,
            "replicas": [asdict(replica) for replica in self.load.replicas],
            "recovery": asdict(self.recovery),
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """Answers of one service about itself."""

    described: service_pb2.DescribeResponse
    recovery: Recovery


async def collect(address: str) -> DeploymentStatus:
    """Ask the router at `address`, then each service it names.

    Raises:
        TriptychError: the router does not answer.
    """
    async with AsyncClient(address) as client, open_channel(address) as channel:
        with typed_errors(address):
            ready = await _serves(channel)
            asked = await _ask_through_proxy(channel)
        router = ServiceState("router", address, ready, None, None, None)
        links = [] if asked is None else list(_named(asked.described.links))
        answers = [asked, *await asyncio.gather(*(_reach(link.address) for link in links))]
        return DeploymentStatus(
            services=tuple(map(_with_answer, (router, *links), answers)),
            models=await client.models(timeout=_ANSWER_S, retry_s=0),
            load=await client.load(timeout=_ANSWER_S, retry_s=0),
            recovery=summed(answer.recovery for answer in answers if answer is not None),
        )


async def _serves(channel: aio.Channel) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ANSWER_S)
    return bool(decoded(answer).status == health_pb2.HealthCheckResponse.SERVING)


async def _ask(channel: aio.Channel) -> _Asked:
    stub: service_pb2_grpc.IntrospectionServiceAsyncStub = (
        service_pb2_grpc.IntrospectionServiceStub(channel)
    )
    described = await stub.Describe(service_pb2.DescribeRequest(), timeout=_ANSWER_S)
    scraped = await stub.Scrape(service_pb2.ScrapeRequest(), timeout=_ANSWER_S)
    try:
        return _Asked(decoded(described), read_from(decoded(scraped).text.decode()))
    except ValueError as error:
        raise DecodeError("its metrics cannot be read") from error


async def _ask_through_proxy(channel: aio.Channel) -> _Asked | None:
    """Ask the router about itself; None where a proxy on the way keeps the answer back."""
    try:
        return await _ask(channel)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise


async def _reach(address: str) -> _Asked | None:
    try:
        async with open_channel(address) as channel:
            return await _ask(channel)
    except (grpc.RpcError, DecodeError):
        return None


def _named(links: Iterable[service_pb2.Link]) -> Iterator[ServiceState]:
    """The services as the router sees them; it lists its replicas in their order."""
    numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
    for link in links:
        yield ServiceState(
            name=link.service,
            address=link.address,
            ready=link.ready,
            pid=None,
            transport=_TRANSPORTS.get(link.transport),
            uptime_s=None,
            replica=next(numbers[link.service]) if link.service in _OF_REPLICAS else None,
        )


def _with_answer(state: ServiceState, asked: _Asked | None) -> ServiceState:
    """`state` with the details that only the service itself knows."""
    if asked is None:
        return state
    described = asked.described
    return replace(
        state,
        name=described.service,
        pid=described.pid if described.host == platform.node() else None,
        uptime_s=round(described.uptime_s, 3),
        restarts=described.restarts,
    )
