"""Addresses of a deployment: the usual ones, and what is wrong with others. Free of imports."""

from __future__ import annotations

PUBLIC = "127.0.0.1:50051"
METRICS = "127.0.0.1:9400"

_FORM = "expected HOST:PORT, such as 127.0.0.1:50051, or unix:PATH"
_SCHEMES = ("dns://", "ipv4:", "ipv6:", "unix-abstract:", "vsock:", "xds:")  # gRPC's own


def find_fault(address: str) -> str | None:
    """Name the fault of an address to connect to, and what to write instead; None: none."""
    if not address.isprintable() or address != address.strip() or not address:
        return _FORM
    if address.startswith("unix:"):
        return None if address.rstrip("/") != "unix:" else "no path after `unix:`"
    if address.startswith(_SCHEMES):
        return None
    scheme, separator, rest = address.partition("://")
    if separator:
        rest = rest.partition("/")[0] or PUBLIC
        tls = ", and there is no TLS" if scheme == "https" else ""
        pair = rest if ":" in rest else f"{rest}:50051"
        return f"an address has no `{scheme}://`{tls}; write {pair}"
    return _find_fault_of_pair(address)


def split_host(address: str) -> str | None:
    """The host of `HOST:PORT`, without brackets; None where the address is of another form."""
    if address.startswith(("unix:", *_SCHEMES)):
        return None
    return address.rpartition(":")[0].strip("[]")


def _find_fault_of_pair(address: str) -> str | None:
    host, separator, port = address.rpartition(":")
    bracketed = address.startswith("[")
    if not bracketed and address.count(":") > 1:
        return f"an IPv6 host stands in brackets; write [{address}]:50051"
    if not separator or (bracketed and address.endswith("]")):
        return f"no port; write {address}:50051"
    if not host or "/" in host or any(one.isspace() for one in host):
        return _FORM
    if bracketed and not host.endswith("]"):
        return _FORM
    if not (port.isascii() and port.isdigit()):
        return f"the port {port!r} is no number; {_FORM}"
    if len(port) > 5 or not 0 < int(port) < 65536:
        return f"the port {port[:20]} is not between 1 and 65535"
    return None
