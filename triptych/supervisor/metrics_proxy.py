"""The metrics of all services of a deployment, as one registry.

Every scrape asks the services anew; nothing they say is kept, so a figure is never older than its
scrape. How often each was started again is the supervisor's own and outlives them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

import grpc
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from chassis.links.channels import open_channel
from chassis.logs import dropped_lines
from chassis.metrics import DROPPED_LINES
from protos import service_pb2, service_pb2_grpc
from triptych.supervisor.child import Child
from triptych.supervisor.log_lines import SUPERVISOR

_ANSWER_S = 3.0


class DeploymentCollector(Collector):
    """Collects from `children`, from any thread but that of `loop`."""

    def __init__(self, children: Sequence[Child], loop: asyncio.AbstractEventLoop) -> None:
        self._children = children
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """All families of all services, each sample labelled with its service and replica."""
        asked = asyncio.run_coroutine_threadsafe(self._ask_all(), self._loop)
        texts = asked.result(timeout=2 * _ANSWER_S)
        up = Metric("triptych_service_up", "Whether the service answered this scrape.", "gauge")
        restarts = Metric(
            "triptych_supervisor_restarts", "How often the service was started again.", "counter"
        )
        dropped = Metric(DROPPED_LINES, "Log lines that were not shown.", "counter")
        dropped.add_sample(f"{dropped.name}_total", {"service": SUPERVISOR}, dropped_lines())
        families = {up.name: up, restarts.name: restarts, dropped.name: dropped}
        for child, text in zip(self._children, texts, strict=True):
            labels = child.plan.labels
            up.add_sample(up.name, labels, 0.0 if text is None else 1.0)
            restarts.add_sample(f"{restarts.name}_total", labels, child.restarts)
            _merge(families, labels, text or "")
        return families.values()

    async def _ask_all(self) -> Sequence[str | None]:
        return await asyncio.gather(*(_ask(child.address) for child in self._children))


async def _ask(address: str) -> str | None:
    """A service's metrics; None where it does not answer."""
    # A channel a scrape: one that idled between scrapes would still send keepalives.
    async with open_channel(address) as channel:
        stub: service_pb2_grpc.IntrospectionServiceAsyncStub = (
            service_pb2_grpc.IntrospectionServiceStub(channel)
        )
        try:
            answer = await stub.Scrape(service_pb2.ScrapeRequest(), timeout=_ANSWER_S)
        except grpc.RpcError:
            return None
    return answer.text.decode()


def _merge(families: dict[str, Metric], labels: Mapping[str, str], text: str) -> None:
    """Add the families of `text`; a family that several services have stays one family."""
    for family in text_string_to_metric_families(text):
        known = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        for sample in family.samples:
            whose = {**sample.labels, **labels}
            known.add_sample(sample.name, whose, sample.value, sample.timestamp, sample.exemplar)
