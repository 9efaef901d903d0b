"""Wait of a command for a server that does not answer: not for long, and not in silence.

A library may wait for a restart; a person who has not started a server wants a message.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

from triptych import addresses, stdio

if TYPE_CHECKING:
    from triptych.client import Unavailable

RETRY_S = 2.0


def show(error: Unavailable, _pause_s: float) -> None:
    """Report on a terminal, once a call, that it is waiting; for `Client(on_retry=…)`."""
    if error.tries == 1 and sys.stderr.isatty():
        found = error.message if error.reason else "nothing answers yet"
        stdio.complain(f"{error.address}: {found}; trying again")


def look_up(address: str) -> None:
    """Check that the host has an address, before anything is sent there.

    Raises:
        OptionError: it has none; no later try would find one.
    """
    from triptych.client.connection import checked
    from triptych.client.options import OptionError

    host = addresses.split_host(checked(address))
    if host is None:
        return
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise OptionError(f"address {address!r}: the host {host!r} is unknown") from error
