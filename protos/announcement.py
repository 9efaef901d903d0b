"""Layout of a doorbell's announcement: the place of a new record.

24 bytes, little-endian: sequence (uint64), offset in the file (uint64), length (uint32) and whether
to acknowledge it (uint32, 0 or 1); what `Frame` of model.proto says of a frame in the ring.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

_LAYOUT = struct.Struct("<QQII")
ANNOUNCEMENT_BYTES = _LAYOUT.size


class Announcement(NamedTuple):
    """One record of the ring, as in `Frame`."""

    sequence: int
    offset: int
    length: int
    acknowledge: bool


def write_announcement(announcement: Announcement) -> bytes:
    """The bytes of one announcement."""
    return _LAYOUT.pack(*announcement)


def read_announcements(source: bytes) -> Iterator[Announcement]:
    """The announcements in `source`, in order; it must hold whole ones."""
    for sequence, offset, length, acknowledge in _LAYOUT.iter_unpack(source):
        yield Announcement(sequence, offset, length, bool(acknowledge))
