"""Messages come whole and in their order, however the bytes arrive."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tokenizer_svc import wire
from tokenizer_svc.wire import Kind, Reader

WAIT_S = 20.0


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, Reader]]:
    """The service's end, and what reads at the worker's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(WAIT_S)
        yield ours, Reader(theirs)


def test_messages_that_come_together_are_told_apart(link: tuple[socket.socket, Reader]) -> None:
    ours, reader = link
    ours.sendall(wire.pack(Kind.ENCODE, b"first") + wire.pack(Kind.PAUSE) + wire.pack(Kind.ATTACH))

    assert reader.read() == (Kind.ENCODE, b"first")
    assert reader.ahead  # though nothing is left in the socket
    assert reader.read() == (Kind.PAUSE, b"")
    assert reader.read() == (Kind.ATTACH, b"")
    assert not reader.ahead


def test_a_message_is_put_together_from_many_parts(link: tuple[socket.socket, Reader]) -> None:
    ours, reader = link
    payload = bytes(range(256)) * 256
    raw = wire.pack(Kind.ANSWER, payload)
    for begin, end in ((0, 3), (3, 7), (7, len(raw))):
        ours.sendall(raw[begin:end])

    assert reader.read() == (Kind.ANSWER, payload)
    assert not reader.ahead


@pytest.mark.parametrize("kept", [0, 3, 7])
def test_the_end_of_the_stream_ends_reading(link: tuple[socket.socket, Reader], kept: int) -> None:
    ours, reader = link
    ours.sendall(wire.pack(Kind.ENCODE, b"cut off")[:kept])
    ours.close()

    assert reader.read() is None
