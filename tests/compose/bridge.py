"""A network bridge for an engine of the test's own.

Without one it would use docker0, and told to have none it would remove docker0; that may be another
engine's. Made and removed through the kernel's calls, for a machine need not have `ip`.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# From linux/sockios.h.
_ADD_BRIDGE, _DELETE_BRIDGE, _SET_FLAGS = 0x89A0, 0x89A1, 0x8914
_NAME_BYTES = 16
_REQUEST = f"{_NAME_BYTES}sh22x"  # struct ifreq with flags, of which none says up


@contextmanager
def bridge(name: str) -> Iterator[str]:
    """Have a bridge of this name for the block.

    Raises:
        OSError: this machine makes none.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _ADD_BRIDGE, _padded(name))
        try:
            yield name
        finally:
            fcntl.ioctl(control, _SET_FLAGS, struct.pack(_REQUEST, name.encode(), 0))
            fcntl.ioctl(control, _DELETE_BRIDGE, _padded(name))


def _padded(name: str) -> bytes:
    return struct.pack(f"{_NAME_BYTES}s", name.encode())
