"""Faults of addresses are said before anything is tried, with what to write instead."""

import pytest

from triptych import AsyncClient, Client, OptionError
from triptych.addresses import find_fault, split_host


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1:50051", "localhost:1", "example.org:65535", "[::1]:50051"),
        *("unix:/run/router.sock", "unix:relative.sock", "unix:///run/router.sock"),
        *("dns:///router:50051", "ipv4:127.0.0.1:50051", "unix-abstract:router"),
    ],
)
def test_an_address_has_no_fault(address):
    assert find_fault(address) is None


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("localhost", "no port; write localhost:50051"),
        ("127.0.0.1", "no port; write 127.0.0.1:50051"),
        ("[::1]", r"no port; write \[::1\]:50051"),
        ("localhost:", "port '' is no number"),
        ("localhost:http", "port 'http' is no number"),
        ("localhost:٣", "port '٣' is no number"),
        ("localhost:50051/", "port '50051/' is no number"),
        ("localhost:65536", "port 65536 is not between 1 and 65535"),
        ("localhost:0", "port 0 is not between 1 and 65535"),
        (f"localhost:{'9' * 5000}", "is not between 1 and 65535"),
        ("http://localhost:50051", "no `http://`; write localhost:50051"),
        ("https://example.org", "no `https://`, and there is no TLS; write example.org:50051"),
        ("grpc://localhost:1/path", "no `grpc://`; write localhost:1"),
        ("::1", r"in brackets; write \[::1\]:50051"),
        ("::1:50051", "in brackets"),
        ("unix:", "no path"),
        ("", "expected HOST:PORT"),
        (":50051", "expected HOST:PORT"),
        ("two words:50051", "expected HOST:PORT"),
        ("host/path:50051", "expected HOST:PORT"),
        ("host:50051\n", "expected HOST:PORT"),
        ("[::1:50051", "expected HOST:PORT"),
    ],
)
def test_a_fault_is_told_by_every_client(address, told):
    for client in (Client, AsyncClient):
        with pytest.raises(OptionError, match=f"^address .*{told}"):
            client(address)


@pytest.mark.parametrize(
    ("address", "host"),
    [("[::1]:1", "::1"), ("example.org:1", "example.org"), ("unix:/a", None), ("dns:///a:1", None)],
)
def test_the_host_of_an_address(address, host):
    assert split_host(address) == host
