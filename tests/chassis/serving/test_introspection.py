"""Every service says who it is, what it is linked to and how it does."""

from __future__ import annotations

import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from prometheus_client import Counter

from chassis.config import ServiceSettings
from chassis.links.channels import open_channel
from chassis.serving import introspection
from chassis.serving.introspection import transport, triptych_version
from chassis.serving.server import Host, serving
from protos import service_pb2, service_pb2_grpc

WAIT_S = 20.0
LINKS = [
    service_pb2.Link(
        service="model",
        address="unix:/run/triptych/model.sock",
        ready=True,
        transport=service_pb2.TRANSPORT_INLINE,
    )
]


class Router:
    """A service with links that come and go, and how to ask it."""

    def __init__(self, host: Host, stub: service_pb2_grpc.IntrospectionServiceAsyncStub) -> None:
        self.host = host
        self._stub = stub

    async def describe(self) -> service_pb2.DescribeResponse:
        return await self._stub.Describe(service_pb2.DescribeRequest(), timeout=WAIT_S)

    async def scrape(self) -> str:
        answer = await self._stub.Scrape(service_pb2.ScrapeRequest(), timeout=WAIT_S)
        return answer.text.decode()


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Router]:
    hosts = []

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        hosts.append(host)
        Counter("steps", "Steps.", registry=host.registry).inc(3)
        yield

    settings = ServiceSettings(listen=f"unix:{tmp_path / 'a.sock'}", restarts=2)
    async with (
        serving("router", mount, settings),
        open_channel(settings.listen) as channel,
    ):
        yield Router(hosts[0], service_pb2_grpc.IntrospectionServiceStub(channel))


async def test_a_service_says_who_it_is(router: Router) -> None:
    told = await router.describe()
    assert told.service == "router"
    assert told.pid == os.getpid()
    assert told.host == platform.node()
    assert told.version == triptych_version()
    assert list(told.links) == []


async def test_it_says_how_often_it_was_started_again(router: Router) -> None:
    assert (await router.describe()).restarts == 2
    assert "\ntriptych_process_restarts 2.0\n" in await router.scrape()


async def test_its_uptime_goes_on(router: Router) -> None:
    first, second = (await router.describe()).uptime_s, (await router.describe()).uptime_s
    assert 0 <= first < second


async def test_links_are_told_as_they_are_when_asked(router: Router) -> None:
    router.host.list_links = lambda: LINKS
    assert list((await router.describe()).links) == LINKS
    router.host.list_links = tuple
    assert list((await router.describe()).links) == []


async def test_its_metrics_are_in_prometheus_text(router: Router) -> None:
    text = await router.scrape()
    assert "\n# TYPE steps_total counter\nsteps_total 3.0\n" in text
    assert "\nprocess_cpu_seconds_total " in text


def test_a_source_tree_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(introspection, "version", absent)
    assert triptych_version() == "0+source"


def test_how_bulk_data_travels_has_a_name() -> None:
    assert transport(shared=True) == service_pb2.TRANSPORT_SHARED_MEMORY
    assert transport(shared=False) == service_pb2.TRANSPORT_INLINE
