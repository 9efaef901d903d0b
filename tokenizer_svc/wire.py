"""Messages between the service and its worker processes, over a stream socket.

A message is its payload's length and its kind, then the payload. A worker works for one request
at a time, so nothing numbers them. One that is told to pause answers others before it resumes.
PAUSE and RECALL mean the request it works for; where they cross with its answer, it ignores them.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct

_HEADER = struct.Struct("<IB")  # payload bytes, kind


class Kind(enum.IntEnum):
    """The kinds of messages; each says what its payload holds."""

    ENCODE = 1  # to a worker: EncodeRequest
    ATTACH = 2  # to a worker: SharedFile
    LOADED = 3  # a worker's first word: GetVocabularyResponse
    FAILED = 4  # a worker's only word: why it cannot start, UTF-8
    ANSWER = 5  # EncodeResponse or SharedProof
    REFUSAL = 6  # BadRequest.FieldViolation
    PAUSE = 7  # to a worker: do other things first
    PAUSED = 8  # it waits for requests, or RESUME
    RESUME = 9  # to a worker that has paused
    RECALL = 10  # to a worker: write nothing, and answer RECALLED
    RECALLED = 11


Message = tuple[Kind, bytes]


def pack(kind: Kind, payload: bytes = b"") -> bytes:
    """Lay out one message."""
    return _HEADER.pack(len(payload), kind) + payload


def read(link: socket.socket) -> Message | None:
    """Read one message and no byte more, or None where the stream has ended."""
    header = _read_exactly(link, _HEADER.size)
    if header is None:
        return None
    length, kind = _HEADER.unpack(header)
    payload = _read_exactly(link, length)
    return None if payload is None else (Kind(kind), bytes(payload))


def _read_exactly(link: socket.socket, size: int) -> bytearray | None:
    received = bytearray(size)
    view = memoryview(received)
    while view:
        count = link.recv_into(view)
        if count == 0:
            return None
        view = view[count:]
    return received


async def read_async(stream: asyncio.StreamReader) -> Message:
    """Read one message.

    Raises:
        EOFError: the stream has ended (asyncio.IncompleteReadError).
        ConnectionError: the peer is gone.
    """
    length, kind = _HEADER.unpack(await stream.readexactly(_HEADER.size))
    return Kind(kind), await stream.readexactly(length)
