"""A link that can stall: passes bytes on between two services, and stops without closing anything.

Nothing is lost and nothing reordered: what a stalled connection took in goes on once it is resumed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CHUNK_BYTES = 1 << 16


class Proxy:
    """Passes on every connection made to `address` until it is stalled."""

    def __init__(self, upstream: str) -> None:
        """Prepare to pass on to the Unix socket at the path `upstream`."""
        self._upstream = upstream
        self._open_for_new = True
        self._connections: set[_Connection] = set()
        self.address = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Take connections inside the block, at a port of its own."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield
        finally:
            server.close()
            self.resume()
            left = list(self._connections)
            for connection in left:
                connection.close()
            for connection in left:
                await connection.over.wait()

    def stall(self, *, new_too: bool) -> None:
        """Hold what the connections there are carry, and with `new_too` those that will be made."""
        self._open_for_new = not new_too
        for connection in self._connections:
            connection.gate.clear()

    def resume(self) -> None:
        """Let everything go on."""
        self._open_for_new = True
        for connection in self._connections:
            connection.gate.set()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        if self._open_for_new:
            connection.gate.set()
        self._connections.add(connection)
        try:
            await connection.forward(self._upstream)
        finally:
            connection.close()
            connection.over.set()
            self._connections.discard(connection)


class _Connection:
    """One connection; it carries nothing while `gate` is closed, and has ended at `over`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gate = asyncio.Event()
        self.over = asyncio.Event()
        self._reader = reader
        self._writers = [writer]

    async def forward(self, upstream: str) -> None:
        """Pass bytes on both ways until both ends have closed, or nobody is upstream."""
        await self.gate.wait()
        with suppress(OSError):
            there, back = await asyncio.open_unix_connection(upstream)
            self._writers.append(back)
            here, out = self._reader, self._writers[0]
            await asyncio.gather(self._pump(here, back), self._pump(there, out))

    def close(self) -> None:
        """Close both ends."""
        for writer in self._writers:
            writer.close()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Move bytes one way until either end closes, which closes the other."""
        try:
            with suppress(OSError):
                while data := await source.read(_CHUNK_BYTES):
                    await self.gate.wait()
                    sink.write(data)
                    await sink.drain()
            await self.gate.wait()
        finally:
            sink.close()
