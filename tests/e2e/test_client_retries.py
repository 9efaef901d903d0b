"""The client library while the router of a real deployment is away."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.deployments import local

from protos import service_pb2, service_pb2_grpc
from triptych import AsyncClient, Client, Options

PROMPT = list(b"Once upon a time")
OPTIONS = Options(max_tokens=8, seed=1, ignore_eos=True, retry_s=60)


@pytest.fixture
def own_deployment(tiny):
    """A deployment whose router may be killed."""
    with local.deployed(tiny, "--dtype", "float32") as deployment:
        yield deployment


def kill_router(deployment) -> None:
    stub = service_pb2_grpc.IntrospectionServiceStub(deployment.channel)
    os.kill(stub.Describe(service_pb2.DescribeRequest(), timeout=10).pid, signal.SIGKILL)


def test_calls_made_while_the_router_is_away_are_answered(own_deployment):
    retried = []

    def stream(client: Client) -> str:
        return "".join(delta.text for delta in client.stream(PROMPT, OPTIONS))

    async def generate() -> str:
        async with AsyncClient(own_deployment.address) as client:
            return (await client.generate(PROMPT, OPTIONS)).text

    with (
        Client(own_deployment.address, on_retry=lambda *told: retried.append(told)) as client,
        ThreadPoolExecutor() as pool,
    ):
        undisturbed = client.generate(PROMPT, OPTIONS).text
        kill_router(own_deployment)
        answers = [pool.submit(client.tokenize, "hi", OPTIONS), pool.submit(stream, client)]
        generated = asyncio.run(generate())

        assert answers[0].result().ids == client.tokenize("hi").ids
        assert answers[1].result() == generated == undisturbed
    assert retried
