"""Ask a service whether it serves: `python -m chassis.healthcheck unix:PATH` or `HOST:PORT`.

Ends with exit code 0 only where the service as a whole answers SERVING in time; for container
runtimes, whose health checks are commands.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def ask(address: str, timeout_s: float = TIMEOUT_S) -> str:
    """The health of the service at `address`, or the status of the call where it failed."""
    # A proxy named in the environment is meant for the outside, not for a service beside this one.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def main(arguments: list[str]) -> int:
    """Print the health of the one address in `arguments`; return the exit code."""
    if len(arguments) != 1:
        print("usage: python -m chassis.healthcheck ADDRESS", file=sys.stderr)  # noqa: T201
        return 2
    health = ask(arguments[0])
    print(health)  # noqa: T201  (a container runtime shows it)
    return 0 if health == "SERVING" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
