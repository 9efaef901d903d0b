"""Lines that tell people of failures: each names the thing and the remedy."""

import grpc
import pytest
from typer.testing import CliRunner

from triptych import client
from triptych.cli import app
from triptych.commands.cli_errors import describe

STATUS = grpc.StatusCode


def failure(kind, message, status, **more):
    return kind(message, address="host:1", status=status, **more)


def with_reason(reason, kind, message, status, **more):
    error = failure(kind, message, status, **more)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            failure(client.Unavailable, "Socket closed", STATUS.UNAVAILABLE, begun=True),
            "the server at host:1 stopped while it answered",
        ),
        (
            failure(client.Cancelled, "Cancelling all calls", STATUS.CANCELLED, begun=True),
            "the server at host:1 stopped while it answered",
        ),
        (
            with_reason("STOPPING", client.Unavailable, "stopping", STATUS.UNAVAILABLE, begun=True),
            "the server at host:1 stopped while it answered",
        ),
        (
            with_reason("STOPPING", client.Unavailable, "it is stopping", STATUS.UNAVAILABLE),
            "host:1: it is stopping (STOPPING)",
        ),
        (
            failure(client.DeadlineExceeded, "Deadline", STATUS.DEADLINE_EXCEEDED, begun=True),
            "the timeout has passed; the answer of host:1 is incomplete",
        ),
        (
            failure(client.DeadlineExceeded, "Deadline", STATUS.DEADLINE_EXCEEDED),
            "no answer from host:1 in time",
        ),
        (
            failure(
                client.Unavailable,
                "failed to connect to all addresses; last error: Connection refused (111)",
                STATUS.UNAVAILABLE,
            ),
            "nothing answers at host:1; start it with `triptych serve --model DIR`",
        ),
        (
            failure(client.Unavailable, "DNS resolution failed for host:1", STATUS.UNAVAILABLE),
            "the host of host:1 is unknown",
        ),
        (
            failure(client.Unavailable, "Trying to connect an http1.x server", STATUS.UNAVAILABLE),
            "what answers at host:1 is no gRPC server",
        ),
        (
            failure(client.Unavailable, "last error: Socket closed", STATUS.UNAVAILABLE),
            "host:1 closes the connection",
        ),
        (
            failure(client.TriptychError, "Method not found!", STATUS.UNIMPLEMENTED),
            "what answers at host:1 is no Triptych server",
        ),
        (
            failure(
                client.Overloaded,
                "CLIENT: Sent message larger than max (41943045 vs. 33554432)",
                STATUS.RESOURCE_EXHAUSTED,
            ),
            "the request is too large for host:1: 40.0 MiB, and at most 32.0 MiB",
        ),
        (
            failure(
                client.Overloaded,
                "SERVER: Received message larger than max (3000 vs. 1000)",
                STATUS.RESOURCE_EXHAUSTED,
            ),
            "the request is too large for host:1: 3000 bytes, and at most 1000 bytes",
        ),
        (
            failure(
                client.Overloaded,
                "CLIENT: Received message larger than max (3000 vs. 1000)",
                STATUS.RESOURCE_EXHAUSTED,
            ),
            "the answer of host:1 is too large: 3000 bytes",
        ),
    ],
)
def test_a_failure_names_the_thing_and_the_remedy(error, told):
    assert describe(error).startswith(told)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("localhost", "no port; write localhost:50051"),
        ("https://localhost:1", "an address has no `https://`"),
        ("localhost:70000", "the port 70000 is not between 1 and 65535"),
        ("nowhere.invalid:1", "the host 'nowhere.invalid' is unknown"),
    ],
)
@pytest.mark.parametrize("arguments", [("generate", "hi"), ("chat",), ("status",), ("bench",)])
def test_an_address_that_is_none_is_one_line(arguments, address, told):
    ended = CliRunner().invoke(app, [*arguments, "--address", address])

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: address {address!r}: {told}")
    assert ended.stderr.count("\n") == 1
