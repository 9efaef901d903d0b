"""The manifests' pods, run as processes with exactly their commands and settings."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import aio
from support.deployments import pods, proxies

from chassis.links.channels import open_channel
from protos import generation_pb2, generation_pb2_grpc, service_pb2, service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 60.0
FIRST = "triptych-replica-0.triptych-replica"
SECOND = "triptych-replica-1.triptych-replica"


@dataclass
class Deployed:
    """A router, a replica, and room for more."""

    cluster: pods.Cluster
    router: pods.Pod
    replica: pods.Pod
    channel: aio.Channel

    @property
    def api(self) -> generation_pb2_grpc.GenerationServiceAsyncStub:
        stub: generation_pb2_grpc.GenerationServiceAsyncStub
        stub = generation_pb2_grpc.GenerationServiceStub(self.channel)
        return stub

    async def replicas_ready(self) -> list[bool]:
        load = await self.api.GetLoad(generation_pb2.GetLoadRequest(), timeout=WAIT_S)
        return [replica.ready for replica in load.replicas]

    async def until_ready(self, replicas: list[bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                if await self.replicas_ready() == replicas:
                    return
                await asyncio.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def deployed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployed]:
    async with pods.cluster(tmp_path_factory.mktemp("pods")) as cluster:
        router = await cluster.start("Deployment", "triptych")
        replica = await cluster.start("StatefulSet", FIRST, "triptych-tokenizer")
        await asyncio.gather(router.ready(), replica.ready())
        async with open_channel(router.at(50051)) as channel:
            yield Deployed(cluster, router, replica, channel)


def asking(text: str, max_tokens: int) -> generation_pb2.GenerateRequest:
    request = generation_pb2.GenerateRequest(model="demo", text=text)
    request.stop.max_tokens = max_tokens
    request.sampling.temperature = 0
    return request


async def text_of(api: generation_pb2_grpc.GenerationServiceAsyncStub) -> str:
    call = api.GenerateStream(asking("def read_file(path):", 24), timeout=WAIT_S)
    return "".join([delta.text async for message in call for delta in message.deltas])


async def test_a_completion_streams_from_the_pods(deployed: Deployed) -> None:
    assert len(await text_of(deployed.api)) > 10


async def test_every_probe_asks_for_what_is_told(deployed: Deployed) -> None:
    for pod in deployed.cluster.pods:
        for container in pod.containers.values():
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                await pod.serves(container[kind])


async def test_frames_stay_in_memory_and_prompts_travel_in_messages(deployed: Deployed) -> None:
    stub = service_pb2_grpc.IntrospectionServiceStub(deployed.channel)
    links = (await stub.Describe(service_pb2.DescribeRequest(), timeout=WAIT_S)).links
    ways = {link.service: link.transport for link in links if link.ready}
    assert ways == {
        "tokenizer": service_pb2.TRANSPORT_INLINE,
        "model": service_pb2.TRANSPORT_INLINE,
        "detokenizer": service_pb2.TRANSPORT_SHARED_MEMORY,
    }


async def test_metrics_are_at_the_ports_that_are_named_so(deployed: Deployed) -> None:
    for pod in deployed.cluster.pods:
        for name, container in pod.containers.items():
            (port,) = (
                port["containerPort"]
                for port in container["ports"]
                if port["name"].endswith("metrics")
            )
            url = f"http://{pod.at(port)}/metrics"
            with await asyncio.to_thread(urllib.request.urlopen, url, timeout=WAIT_S) as answer:
                assert f"triptych_{name}_".encode() in answer.read()


async def test_a_completion_streams_through_envoy(deployed: Deployed, tmp_path: Path) -> None:
    proxies.find_envoy()
    async with (
        proxies.envoy_before([deployed.router.at(50051)], tmp_path) as host,
        open_channel(f"{host}:{proxies.port_of('clients')}") as channel,
    ):
        api = generation_pb2_grpc.GenerationServiceStub(channel)
        await api.ListModels(
            generation_pb2.ListModelsRequest(), wait_for_ready=True, timeout=WAIT_S
        )
        assert await text_of(api) == await text_of(deployed.api)


async def test_behind_envoy_a_router_that_stops_under_load_loses_no_request(
    deployed: Deployed, tmp_path: Path
) -> None:
    proxies.find_envoy()
    stopping = await deployed.cluster.start("Deployment")
    await stopping.ready()
    routers = [pod.at(50051) for pod in (deployed.router, stopping)]
    begun, over = asyncio.Event(), asyncio.Event()

    async def keep_asking(api: generation_pb2_grpc.GenerationServiceAsyncStub) -> None:
        while not over.is_set():
            await api.Generate(asking("def f(", 8), timeout=WAIT_S, wait_for_ready=True)
            begun.set()

    async with (
        proxies.envoy_before(routers, tmp_path) as host,
        open_channel(f"{host}:{proxies.port_of('clients')}") as channel,
        asyncio.TaskGroup() as clients,
    ):
        for _ in range(8):
            clients.create_task(keep_asking(generation_pb2_grpc.GenerationServiceStub(channel)))
        await begun.wait()
        await stopping.stop()
        over.set()


async def resubmissions(deployed: Deployed) -> float:
    stub = service_pb2_grpc.IntrospectionServiceStub(deployed.channel)
    answer = await stub.Scrape(service_pb2.ScrapeRequest(), timeout=WAIT_S)
    (value,) = re.findall(rb"^triptych_router_resubmissions_total (.*)$", answer.text, re.MULTILINE)
    return float(value)


async def test_a_replica_that_comes_later_takes_over_from_one_that_goes(
    deployed: Deployed,
) -> None:
    assert await deployed.replicas_ready() == [True, False, False, False]
    second = await deployed.cluster.start("StatefulSet", SECOND)
    await second.ready()
    await deployed.until_ready([True, True, False, False])
    request = asking("import os", 400)
    request.stop.ignore_eos = True
    request.output.token_ids = True
    call = deployed.api.GenerateStream(request, timeout=WAIT_S)
    ids = list((await call.read()).deltas[0].token_ids)
    deployed.cluster.forget(FIRST)
    await deployed.replica.stop()
    while (message := await call.read()) is not aio.EOF:
        ids += [one for delta in message.deltas for one in delta.token_ids]
    assert len(ids) == 400
    assert await resubmissions(deployed) == 1
    assert await deployed.replicas_ready() == [False, True, False, False]
