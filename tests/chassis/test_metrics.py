"""A service's metrics, over HTTP where asked for."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request

import pytest
from prometheus_client import Counter, generate_latest

from chassis.errors import StartError
from chassis.line_stream import LineStream
from chassis.metrics import new_registry, served_over_http, split_address


def fetch(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_every_registry_tells_of_the_process() -> None:
    text = generate_latest(new_registry()).decode()
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert f"\n{name} " in text
    assert "\ntriptych_log_lines_dropped_total 0.0\n" in text


def test_a_registry_counts_the_lines_that_the_log_has_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        stream = LineStream(full.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        stream.write("unseen\n")
        stream.drain(20.0)
    text = generate_latest(new_registry()).decode()
    assert "\ntriptych_log_lines_dropped_total 1.0\n" in text


def test_registries_are_apart() -> None:
    for _ in range(2):
        Counter("steps", "Steps.", registry=new_registry())


def test_metrics_are_served_inside_the_block_only() -> None:
    registry = new_registry()
    steps = Counter("steps", "Steps.", registry=registry)
    with served_over_http(registry, "127.0.0.1:0") as port:
        assert port
        steps.inc(3)
        assert "\nsteps_total 3.0\n" in fetch(port)
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(port)


def test_off_serves_nothing() -> None:
    with served_over_http(new_registry(), "off") as port:
        assert port is None


def test_the_server_ends_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), served_over_http(new_registry(), "127.0.0.1:0") as port:
        raise ZeroDivisionError
    assert port
    with pytest.raises(urllib.error.URLError, match="refused"):
        fetch(port)


def test_an_address_in_use_is_named_with_a_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(StartError, match=f"metrics on {address}: .* in use; .*`off`"),
            served_over_http(new_registry(), address),
        ):
            pass


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:9400", ("127.0.0.1", 9400)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_host_and_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "9400", ":9400", "host", "host:", "host:http", "host:65536", "host:-1", "h:²"]
)
def test_anything_else_is_refused_by_name(address: str) -> None:
    with pytest.raises(StartError, match="expected HOST:PORT") as refused:
        split_address(address)
    assert repr(address) in str(refused.value)
