"""Both clients behind one call, and connections that fail."""

import asyncio
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from triptych import AsyncClient, Client
from triptych.client import retry

Call = Callable[..., Any]


def _blocking(address: str, method: str, *arguments: Any, on_retry=None, **options: Any) -> Any:
    with Client(address, on_retry=on_retry) as client:
        answer = getattr(client, method)(*arguments, **options)
        return list(answer) if method == "stream" else answer


def _asyncio(address: str, method: str, *arguments: Any, on_retry=None, **options: Any) -> Any:
    async def answer() -> Any:
        async with AsyncClient(address, on_retry=on_retry) as client:
            called = getattr(client, method)(*arguments, **options)
            return [one async for one in called] if method == "stream" else await called

    return asyncio.run(answer())


@pytest.fixture(params=[_blocking, _asyncio], ids=["blocking", "asyncio"])
def call(request: pytest.FixtureRequest) -> Call:
    """Calls a method of a client and waits for all of the answer; once with each client."""
    return request.param


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses that nobody notices."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(retry, "MOST_PAUSE_S", 0.002)


@pytest.fixture
def long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first pause that outlasts every test."""
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 1000.0)


class Wire(socketserver.ThreadingTCPServer):
    """Connects whoever connects to it with a server, until it is cut."""

    def __init__(self, server_address: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        host, port = server_address.rsplit(":", 1)
        self.target = (host, int(port))
        self.ends: list[socket.socket] = []
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"

    def cut(self) -> None:
        """Close all connections; new ones may be made."""
        while self.ends:
            _close(self.ends.pop())


class _Connection(socketserver.BaseRequestHandler):
    server: Wire

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as there:
            self.server.ends += [self.request, there]
            back = threading.Thread(target=_carry, args=(there, self.request))
            back.start()
            _carry(self.request, there)
            back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    _close(sink)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(server) -> Iterator[Wire]:
    """A wire to the server."""
    with Wire(server.address) as made:
        accepting = threading.Thread(target=made.serve_forever, args=(0.02,))
        accepting.start()
        yield made
        made.shutdown()
        accepting.join()
        made.cut()
