"""A service's Prometheus metrics: its registry, its own HTTP endpoint, its text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, start_http_server

from chassis.errors import StartError


def new_registry(restarts: int = 0) -> CollectorRegistry:
    """A registry that already tells the process's CPU time, memory, open files and `restarts`."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Gauge(
        "triptych_process_restarts",
        "How often whoever runs the service has started it again.",
        registry=registry,
    ).set(restarts)
    return registry


def split_address(address: str) -> tuple[str, int]:
    """Split `HOST:PORT` (an IPv6 host in brackets).

    Raises:
        StartError: it is not of that form.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise StartError(f"address {address!r}: expected HOST:PORT, such as 127.0.0.1:9400")
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
