"""One process of the pool: `python -m tokenizer_svc.worker SOCKET_FD PARENT_PID CHECKPOINT`.

It answers one request after another until its socket ends, and ends with its parent. Nothing that a
request holds ends it, but a crash of native code; the pool starts another then.
"""

from __future__ import annotations

import asyncio
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from google.rpc import error_details_pb2

from chassis.errors import InvalidRequest, StartError
from chassis.logs import unblock
from chassis.serving.process import die_with_parent
from protos import memory_pb2, tokenizer_pb2
from tokenizer_svc import wire
from tokenizer_svc.encoder import Encoder, Slabs
from tokenizer_svc.wire import Kind


class Recalled(asyncio.CancelledError):
    """The service has cancelled the request."""


class Worker:
    """The loop of one process: a request, its answer.

    A request that takes long looks at the link between its steps; a pause lets others go first.
    """

    def __init__(self, link: socket.socket, encoder: Encoder, slabs: Slabs) -> None:
        self._link = link
        self._reader = wire.Reader(link)
        self._encoder = encoder
        self._slabs = slabs

    def serve(self) -> None:
        """Answer what the link brings until it ends."""
        while (message := self._reader.read()) is not None:
            self._handle(message)

    def _handle(self, message: wire.Message) -> None:
        if message[0] not in (Kind.PAUSE, Kind.RECALL):  # they came too late
            self._send(*self._answer(message))

    def _answer(self, message: wire.Message) -> wire.Message:
        kind, payload = message
        if kind == Kind.ATTACH:
            proof = self._slabs.prove(memory_pb2.SharedFile.FromString(payload))
            return Kind.ANSWER, proof.SerializeToString()
        request = tokenizer_pb2.EncodeRequest.FromString(payload)
        try:
            return Kind.ANSWER, self._encoder.encode(request, self._look).SerializeToString()
        except Recalled:
            return Kind.RECALLED, b""
        except InvalidRequest as error:
            return Kind.REFUSAL, _violation(error).SerializeToString()

    def _look(self, until: int | None = None) -> None:
        """Do one thing that the service has asked for since the request came, if any.

        One at a time, so that work goes on between two pauses; any number until descriptor `until`
        is readable, as that work goes on by itself.

        Raises:
            Recalled: nobody waits for the answer.
        """
        link, reader = self._link.fileno(), self._reader
        awaited = [link] if until is None else [link, until]
        while True:
            at_once = until is None or reader.ahead
            ready, _, _ = select.select(awaited, [], [], 0 if at_once else None)
            if reader.ahead or link in ready:
                self._obey()
            if until is None or until in ready:
                return

    def _obey(self) -> None:
        """Do what the service asks for next."""
        message = self._reader.read()
        if message is None or message[0] == Kind.RECALL:
            raise Recalled
        self._pause()

    def _pause(self) -> None:
        """Answer other requests until RESUME."""
        self._send(Kind.PAUSED)
        while (message := self._reader.read()) is not None and message[0] != Kind.RESUME:
            self._handle(message)

    def _send(self, kind: Kind, payload: bytes = b"") -> None:
        self._link.sendall(wire.pack(kind, payload))


def _violation(error: InvalidRequest) -> error_details_pb2.BadRequest.FieldViolation:
    """Pack an error; what is not Unicode in it is replaced, because messages cannot hold it."""
    field, description = (
        text.encode(errors="replace").decode() for text in (error.field, error.description)
    )
    return error_details_pb2.BadRequest.FieldViolation(field=field, description=description)


def run(link: socket.socket, folder: Path) -> None:
    """Load the checkpoint in `folder`, then answer what `link` brings until it ends."""
    slabs = Slabs()
    try:
        encoder = Encoder.load(folder, slabs)
    except StartError as error:
        link.sendall(wire.pack(Kind.FAILED, str(error).encode()))
        return
    link.sendall(wire.pack(Kind.LOADED, encoder.vocabulary.SerializeToString()))
    with suppress(ConnectionError):  # the service has gone
        Worker(link, encoder, slabs).serve()
    slabs.close()


def main(arguments: list[str]) -> None:
    """Run a worker process."""
    # A terminal's Ctrl-C and a group's SIGTERM reach workers too, but calls in flight still need
    # them: the parent decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    unblock()  # a last word that nobody reads must not keep a dying worker alive
    descriptor, parent_pid, folder = arguments
    try:
        die_with_parent(int(parent_pid))
    except StartError:
        return
    with socket.socket(fileno=int(descriptor)) as link:
        run(link, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
