"""Health check of a service: `python -m chassis.healthcheck unix:PATH` or `HOST:PORT`.

The exit code is 0 only if the service as a whole answers SERVING in time; for container runtimes,
whose health checks are commands. Its start costs far more than its question, so with
`--patient FILE` it stays and listens: it ends once the health differs from the one that FILE
records, else after `PATIENCE_S`.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.links.credentials import blocking_channel

TIMEOUT_S = 3.0
PATIENCE_S = 300.0

_OPTIONS = [
    # A proxy named in the environment is meant for the outside, not for a service beside this one.
    ("grpc.enable_http_proxy", 0),
    # A service that is about to start is soon there.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A service that is stopped or swapped out reports nothing; this finds it.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def ask(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """The health of the service at `address`, or the status of the call where it failed."""
    with blocking_channel(address, _OPTIONS) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return _name(answer)


def await_other(last: str, address: str, patience_s: float = PATIENCE_S) -> str:
    """The health of the service at `address` once it differs from `last`, or after a while any.

    Args:
        last: health reported last; empty for none.
        address: of the service, which need not be there yet.
        patience_s: how long to wait.
    """
    with blocking_channel(address, _OPTIONS) as channel:
        answers = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=patience_s, wait_for_ready=True
        )
        with suppress(grpc.RpcError):  # the time is over, or the service is
            for answer in answers:
                if _name(answer) != last:
                    return _name(answer)
    # A service that hangs does not inform its watchers.
    return ask(address)


def _name(answer: health_pb2.HealthCheckResponse) -> str:
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """Print the health of the one address in `arguments`; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m chassis.healthcheck")
    parser.add_argument("--patient", metavar="FILE", type=Path, help="wait until it changes")
    parser.add_argument("address", metavar="ADDRESS", help="unix:PATH or HOST:PORT")
    options = parser.parse_args(arguments)
    if options.patient is None:
        health = ask(options.address)
    else:
        health = _await_other_than(options.patient, options.address)
    print(health)  # noqa: T201  (a container runtime shows it)
    return 0 if health == "SERVING" else 1


def _await_other_than(file: Path, address: str) -> str:
    """The next health that differs from the one in `file`, which is updated."""
    last = file.read_text() if file.exists() else ""
    health = await_other(last, address)
    file.write_text(health)
    return health


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
