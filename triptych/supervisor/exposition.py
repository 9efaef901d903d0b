"""The metrics of all services of a deployment, as one registry.

Every scrape asks the services anew; nothing is kept, so a figure is never older than its scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import grpc
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from chassis.channels import open_channel
from protos import service_pb2, service_pb2_grpc

_ANSWER_S = 3.0


class DeploymentCollector(Collector):
    """Collects from the services at `addresses`, from any thread but that of `loop`."""

    def __init__(self, addresses: Mapping[str, str], loop: asyncio.AbstractEventLoop) -> None:
        self._addresses = addresses
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        """All families of all services, each sample labelled with its service."""
        asked = asyncio.run_coroutine_threadsafe(self._ask_all(), self._loop)
        texts = asked.result(timeout=2 * _ANSWER_S)
        up = Metric("triptych_service_up", "Whether the service answered this scrape.", "gauge")
        families = {up.name: up}
        for service, text in texts.items():
            up.add_sample(up.name, {"service": service}, 0.0 if text is None else 1.0)
            _merge(families, service, text or "")
        return families.values()

    async def _ask_all(self) -> dict[str, str | None]:
        asked = dict(self._addresses)
        texts = await asyncio.gather(*(_ask(address) for address in asked.values()))
        return dict(zip(asked, texts, strict=True))


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


def _merge(families: dict[str, Metric], service: str, text: str) -> None:
    """Add the families of `text`; a family that several services have stays one family."""
    for family in text_string_to_metric_families(text):
        known = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        for sample in family.samples:
            labels = {**sample.labels, "service": service}
            known.add_sample(sample.name, labels, sample.value, sample.timestamp, sample.exemplar)
