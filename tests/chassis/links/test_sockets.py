"""One address has one live server."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from grpc import aio

from chassis.errors import StartError
from chassis.links.sockets import bind, release


@asynccontextmanager
async def bound(address: str) -> AsyncIterator[str]:
    """A server bound to `address` for the block."""
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    try:
        yield bind(server, address)
    finally:
        # One that never started would keep its port.
        await server.start()
        await server.stop(None)


def leave_socket(path: Path) -> None:
    """Leave a socket as a process does that is killed."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_port_0_becomes_the_port_that_was_picked(host: str) -> None:
    async with bound(f"{host}:0") as address:
        name, _, port = address.rpartition(":")
        assert name == host
        socket.create_connection((host, int(port))).close()


async def test_a_port_is_not_shared() -> None:
    async with bound("127.0.0.1:0") as address:
        second = aio.server(options=[("grpc.so_reuseport", 0)])
        with pytest.raises(StartError, match=f"cannot listen on {address}: .* in use; .* port 0"):
            bind(second, address)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("localhost", "expected HOST:PORT"),
        ("192.0.2.1:0", "192.0.2.1:0: Cannot assign"),  # an address that belongs to nobody
        ("nobody.invalid:0", r"nobody.invalid:0: \w+"),
        ("unix:/absent/service.sock", "unix:/absent/service.sock: No such file"),
        (f"unix:/tmp/{'x' * 103}", "more than 107 bytes"),
    ],
)
async def test_an_address_that_cannot_be_had_is_named_with_the_reason(
    address: str, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StartError, match=why):
        bind(aio.server(), address)
    assert capfd.readouterr().err == ""


async def test_only_the_servers_user_may_connect_to_its_socket(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        async with bound(f"unix:{tmp_path / 'a.sock'}"):
            assert stat.S_IMODE((tmp_path / "a.sock").stat().st_mode) == 0o600
            assert os.umask(0) == 0  # as it was
    finally:
        os.umask(mask)


async def test_a_socket_left_by_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    leave_socket(path)
    async with bound(f"unix:{path}") as address:
        assert address == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


async def test_a_live_servers_socket_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    async with bound(f"unix:{path}"):
        inode = path.stat().st_ino
        with pytest.raises(StartError, match=f"on unix:{path}: another process serves it; choose"):
            bind(aio.server(), f"unix:{path}")
        assert path.stat().st_ino == inode


async def test_a_live_server_too_busy_to_accept_is_live(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as waiting:
        server.bind(str(path))
        server.listen(0)
        waiting.connect(str(path))
        with pytest.raises(StartError, match="another process serves it"):
            bind(aio.server(), f"unix:{path}")


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(StartError, match="no socket"):
        bind(aio.server(), f"unix:{path}")
    assert path.read_text() == "mine"


async def test_a_released_address_leaves_no_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'a.sock'}"
    async with bound(address):
        release(address)
    release(address)
    release("127.0.0.1:1")
    assert os.listdir(tmp_path) == []
