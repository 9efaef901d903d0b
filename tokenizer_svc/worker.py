"""One process of the pool: `python -m tokenizer_svc.worker SOCKET_FD PARENT_PID CHECKPOINT`.

It answers one request after another until its socket ends, and ends with its parent. A failure
that is not the request's own is a bug and ends the process; the pool starts another.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path

from google.rpc import error_details_pb2

from chassis.errors import InvalidRequest, StartError
from chassis.logs import unblock
from chassis.process import die_with_parent
from protos import memory_pb2, tokenizer_pb2
from tokenizer_svc import wire
from tokenizer_svc.encoder import Encoder, Slabs
from tokenizer_svc.wire import Kind


def serve(link: socket.socket, folder: Path) -> None:
    """Load the checkpoint in `folder`, then answer what `link` brings until it ends."""
    slabs = Slabs()
    try:
        encoder = Encoder.load(folder, slabs)
    except StartError as error:
        link.sendall(wire.pack(Kind.FAILED, str(error).encode()))
        return
    link.sendall(wire.pack(Kind.LOADED))
    with link.makefile("rb") as stream:
        while (message := wire.read(stream)) is not None:
            link.sendall(wire.pack(*answer(encoder, slabs, message)))
    slabs.close()


def answer(encoder: Encoder, slabs: Slabs, message: wire.Message) -> wire.Message:
    """Do what one message asks."""
    kind, payload = message
    if kind == Kind.ATTACH:
        proof = slabs.prove(memory_pb2.SharedFile.FromString(payload))
        return Kind.ANSWER, proof.SerializeToString()
    try:
        response = encoder.encode(tokenizer_pb2.EncodeRequest.FromString(payload))
    except InvalidRequest as error:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        return Kind.REFUSAL, violation.SerializeToString()
    return Kind.ANSWER, response.SerializeToString()


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
        serve(link, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
