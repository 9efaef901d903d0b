"""Messages between the service and its worker processes, over a stream socket.

A message is its payload's length and its kind, then the payload. Each request gets one answer, and
a worker has one request at a time, so nothing numbers them.
"""

from __future__ import annotations

import asyncio
import enum
import struct
from typing import BinaryIO

_HEADER = struct.Struct("<IB")  # payload bytes, kind


class Kind(enum.IntEnum):
    """What a message is, and so what its payload holds."""

    ENCODE = 1  # to a worker: EncodeRequest
    ATTACH = 2  # to a worker: SharedFile
    LOADED = 3  # a worker's first word: nothing
    FAILED = 4  # a worker's only word: why it cannot start, UTF-8
    ANSWER = 5  # EncodeResponse or SharedProof
    REFUSAL = 6  # BadRequest.FieldViolation


Message = tuple[Kind, bytes]


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """Lay out one message."""
    return _HEADER.pack(len(payload), kind) + payload


def read(stream: BinaryIO) -> Message | None:
    """Read one message, or None where the stream has ended."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    length, kind = _HEADER.unpack(header)
    payload = stream.read(length)
    return (Kind(kind), payload) if len(payload) == length else None


async def read_async(stream: asyncio.StreamReader) -> Message:
    """Read one message.

    Raises:
        EOFError: the stream has ended (asyncio.IncompleteReadError).
        ConnectionError: the peer is gone.
    """
    length, kind = _HEADER.unpack(await stream.readexactly(_HEADER.size))
    return Kind(kind), await stream.readexactly(length)
