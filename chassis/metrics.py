"""A service's Prometheus metrics: its registry, its own HTTP endpoint, its text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Metric,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from chassis.errors import StartError
from chassis.logs import dropped_lines

_MOST_PORT = 65535
DROPPED_LINES = "triptych_log_lines_dropped"


def new_registry(restarts: int = 0) -> CollectorRegistry:
    """A registry with the metrics of the process.

    Its CPU time, memory, open files, `restarts` and the log lines that it dropped.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Gauge(
        "triptych_process_restarts",
        "Restarts of the service by its supervisor.",
        registry=registry,
    ).set(restarts)
    registry.register(_DroppedLines())
    return registry


class _DroppedLines(Collector):
    """Number of lines that the process's log has lost."""

    def collect(self) -> Iterable[Metric]:
        yield CounterMetricFamily(
            DROPPED_LINES,
            "Log lines dropped because nobody read them or they could not be written.",
            value=dropped_lines(),
        )


def split_address(address: str, *, example: str = "127.0.0.1:9400") -> tuple[str, int]:
    """Split `HOST:PORT` (an IPv6 host in brackets).

    Args:
        address: to split.
        example: of a right address, for the message about a wrong one.

    Raises:
        StartError: it is not of that form.
    """
    host, _, port = address.rpartition(":")
    expected = f"expected HOST:PORT, such as {example}"
    if "://" in address:
        raise StartError(f"address {address!r}: {expected}, without a scheme")
    if not host or not (port.isascii() and port.isdigit()):
        raise StartError(f"address {address!r}: {expected}")
    if int(port) > _MOST_PORT:
        raise StartError(f"address {address!r}: port {port} is above {_MOST_PORT}; {expected}")
    return host.strip("[]"), int(port)


@contextmanager
def served_over_http(registry: CollectorRegistry, address: str) -> Iterator[int | None]:
    """Serve `registry` at `http://address/metrics` inside the block; yield the bound port.

    `off` serves nothing and yields None.

    Raises:
        StartError: the address is malformed or in use.
    """
    if address == "off":
        yield None
        return
    host, port = split_address(address)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise StartError(
            f"cannot serve metrics on {address}: {error.strerror}; choose another address or `off`"
        ) from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
