"""Messages between the service and its worker processes, over a stream socket.

A message is its payload's length and its kind, then the payload. A worker works for one request
at a time, so nothing numbers them. A paused one answers others before it resumes.
PAUSE and RECALL mean the request it works for; where they cross with its answer, it ignores them.
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct

_HEADER = struct.Struct("<IB")  # payload bytes, kind
_LEAST_READ, _MOST_READ = 4096, 1 << 18  # bytes


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


class Reader:
    """Reads messages from a blocking socket, as many bytes at once as there are."""

    def __init__(self, link: socket.socket) -> None:
        """Read from `link`, which nothing else reads."""
        self._link = link
        self._ahead = bytearray()

    def read(self) -> Message | None:
        """Wait for the next message; None where the stream has ended."""
        if not self._fill(_HEADER.size):
            return None
        length, kind = _HEADER.unpack_from(self._ahead)
        end = _HEADER.size + length
        if not self._fill(end):
            return None
        payload = bytes(memoryview(self._ahead)[_HEADER.size : end])
        del self._ahead[:end]
        return Kind(kind), payload

    @property
    def ahead(self) -> bool:
        """True if bytes of the next message have been read."""
        return bool(self._ahead)

    def _fill(self, size: int) -> bool:
        """Read until `size` bytes are there; False at the end of the stream."""
        while (missing := size - len(self._ahead)) > 0:
            received = self._link.recv(min(max(missing, _LEAST_READ), _MOST_READ))
            if not received:
                return False
            self._ahead += received
        return True


async def read_async(stream: asyncio.StreamReader) -> Message:
    """Read one message.

    Raises:
        EOFError: the stream has ended (asyncio.IncompleteReadError).
        ConnectionError: the peer is gone.
    """
    length, kind = _HEADER.unpack(await stream.readexactly(_HEADER.size))
    return Kind(kind), await stream.readexactly(length)
