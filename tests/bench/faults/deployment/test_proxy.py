"""A link that stalls without closing."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from bench.faults.deployment.proxy import Proxy

QUIET_S = 0.05


@asynccontextmanager
async def echoing(path):
    """A server that answers with what it is sent."""

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_unix_server(echo, path)
    try:
        yield
    finally:
        server.close()


@pytest.fixture
async def proxy(tmp_path):
    path = str(tmp_path / "echo")
    made = Proxy(path)
    async with echoing(path), made.listening():
        yield made


async def connect(proxy):
    host, _, port = proxy.address.partition(":")
    return await asyncio.open_connection(host, int(port))


async def says(connection, word):
    """Send a word and take what comes back."""
    reader, writer = connection
    writer.write(word)
    return await reader.readexactly(len(word))


async def stays_silent(connection, word):
    reader, writer = connection
    writer.write(word)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET_S):
            await reader.read(1)
    return not reader.at_eof()


async def test_bytes_pass_both_ways(proxy):
    connection = await connect(proxy)

    assert await says(connection, b"hello") == b"hello"
    connection[1].close()


async def test_a_stalled_connection_is_open_and_silent_and_new_ones_pass(proxy):
    old = await connect(proxy)
    await says(old, b"before")
    proxy.stall(new_too=False)
    new = await connect(proxy)

    assert await stays_silent(old, b"lost?")
    assert await says(new, b"passes") == b"passes"
    proxy.resume()
    assert await old[0].readexactly(5) == b"lost?"
    for connection in (old, new):
        connection[1].close()


async def test_with_new_ones_too_nothing_passes_until_it_is_resumed(proxy):
    proxy.stall(new_too=True)
    new = await connect(proxy)

    assert await stays_silent(new, b"held")
    proxy.resume()
    assert await new[0].readexactly(4) == b"held"
    new[1].close()


async def test_what_one_end_closes_is_closed_at_the_other(proxy):
    reader, writer = await connect(proxy)
    writer.write_eof()

    assert await reader.read() == b""
    writer.close()


async def test_nobody_upstream_is_a_closed_connection(tmp_path):
    proxy = Proxy(str(tmp_path / "nobody"))
    async with proxy.listening():
        reader, writer = await connect(proxy)

        assert await reader.read() == b""
        writer.close()
