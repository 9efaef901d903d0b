"""Credentials of ports and channels: the one place that opens either.

Connections are plain text today; certificates would change this file alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio

Options = Sequence[tuple[str, Any]]


def add_port(server: aio.Server, address: str) -> int:
    """Have `server` listen on `address`; return the port, 0 for a unix socket's.

    Raises:
        RuntimeError: it cannot.
    """
    return int(server.add_insecure_port(address))


def blocking_channel(address: str, options: Options = ()) -> grpc.Channel:
    """Open a channel for blocking calls; it connects when first used."""
    return grpc.insecure_channel(address, options=options)


def channel(address: str, options: Options = ()) -> aio.Channel:
    """Open a channel for calls on an event loop; it connects when first used."""
    return aio.insecure_channel(address, options=options)
