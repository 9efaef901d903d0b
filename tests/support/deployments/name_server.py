"""A DNS server that knows the addresses a test tells it, and of all other names that there is none.

A channel asks it where its address is `dns://127.0.0.1:PORT/NAME:PORT`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

_HEADER = struct.Struct("!HHHHHH")
_ANSWER = struct.Struct("!HHHIH")  # name, type, class, seconds to live, length
_QUESTION_AT = 12
_FLAGS = 0x8580  # an answer, of one who knows
_NO_SUCH_NAME = 3
_IPV4 = 1
_NAME_OF_QUESTION = 0xC000 | _QUESTION_AT


class NameServer(asyncio.DatagramProtocol):
    """Answers from `addresses`, name to address."""

    def __init__(self) -> None:
        self.addresses: dict[str, str] = {}
        self.asked: list[str] = []
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        name, end = _read_name(data)
        (kind,) = struct.unpack_from("!H", data, end)
        self.asked.append(name)
        address = self.addresses.get(name)
        found = b""
        if address is not None and kind == _IPV4:
            packed = ipaddress.IPv4Address(address).packed
            found = _ANSWER.pack(_NAME_OF_QUESTION, _IPV4, 1, 0, len(packed)) + packed
        flags = _FLAGS | (_NO_SUCH_NAME if address is None else 0)
        header = _HEADER.pack(int.from_bytes(data[:2]), flags, 1, bool(found), 0, 0)
        self._transport.sendto(header + data[_QUESTION_AT : end + 4] + found, addr)

    @property
    def authority(self) -> str:
        """What an address begins with that is to be looked up here."""
        host, port = self._transport.get_extra_info("sockname")
        return f"dns://{host}:{port}/"


def _read_name(query: bytes) -> tuple[str, int]:
    """The name asked for, and where it ends."""
    at, labels = _QUESTION_AT, []
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1


@asynccontextmanager
async def name_server() -> AsyncIterator[NameServer]:
    """Answer inside the block."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
