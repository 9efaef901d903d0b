"""The asyncio client, over a real socket: the same answers, and cancellation."""

import asyncio
from contextlib import aclosing

import pytest

import triptych
from triptych import AsyncClient, Client


async def test_answers_equal_the_blocking_client(server):
    async with AsyncClient(server.address) as client:
        seen = (
            await client.generate("hello", n=2),
            [delta async for delta in client.stream("hello")],
            await client.tokenize("hi"),
            await client.detokenize([104, 105]),
            await client.models(),
            await client.load(),
        )

    with Client(server.address) as blocking:
        assert seen == (
            blocking.generate("hello", n=2),
            list(blocking.stream("hello")),
            blocking.tokenize("hi"),
            blocking.detokenize([104, 105]),
            blocking.models(),
            blocking.load(),
        )


async def test_leaving_the_loop_cancels_the_call(server):
    async with AsyncClient(server.address) as client:
        async with aclosing(client.stream("endless")) as stream:
            async for _ in stream:
                break

        assert await asyncio.to_thread(server.generation.cancelled.wait, 10)


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_cancelling_the_task_cancels_the_call(server, method):
    async def consume(client: AsyncClient) -> None:
        if method == "generate":
            await client.generate("endless")
        async for _ in client.stream("endless"):
            pass

    async with AsyncClient(server.address) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await consume(client)

        assert await asyncio.to_thread(server.generation.cancelled.wait, 10)


async def test_errors_are_typed(server, nobody):
    async with AsyncClient(server.address) as client:
        with pytest.raises(triptych.InvalidRequest) as caught:
            async for _ in client.stream("invalid"):
                pass
    assert caught.value.violations[0].field == "sampling.top_p"

    async with AsyncClient(nobody) as client:
        with pytest.raises(triptych.Unavailable):
            await client.models(retry_s=0)
