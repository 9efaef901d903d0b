"""A doorbell between two processes that share memory: small records through a named pipe.

A ring costs one system call on each side, where a message of gRPC wakes two threads in each
process. The pipe lies beside the shared files and is theirs in all else: made by one owner, who
holds a lock on it for life, and removed by the next start if that owner dies.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from chassis.memory.shared_file import FOLDER, is_shared_name, make_locked

_RECORDS_AT_ONCE = 128


class Doorbell:
    """The ringing side, which owns the pipe."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def create(cls, folder: Path = FOLDER) -> Doorbell:
        """Make a pipe in `folder`.

        Raises:
            StartError: the folder takes none.
        """
        return cls(*make_locked("bell", folder, _make_pipe))

    @property
    def name(self) -> str:
        """File name, without its folder."""
        return self._path.name

    def ring(self, record: bytes) -> bool:
        """Send `record`, whole or not at all; answer whether there was room for it.

        All records of a bell are of one size, below 512 bytes.
        """
        try:
            os.write(self._descriptor, record)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Remove the pipe."""
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class Listener:
    """The hearing side."""

    def __init__(self, name: str, record_bytes: int, folder: Path = FOLDER) -> None:
        """Listen to a peer's bell, whose records have `record_bytes` bytes each.

        Raises:
            OSError: it cannot be seen or may not be read.
            ValueError: it is not one of ours.
        """
        if not is_shared_name(name):
            raise ValueError(f"{name!r} does not name a bell")
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW
        self._descriptor = os.open(folder / name, flags)
        if not stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise ValueError(f"{name!r} is not a bell of ours")
        # A multiple of what is written at once, so that no record is ever cut.
        self._most_bytes = record_bytes * _RECORDS_AT_ONCE

    def fileno(self) -> int:
        """The descriptor, readable where there is something to hear."""
        return self._descriptor

    def hear(self) -> bytes | None:
        """The records that have come, laid end to end; None once the owner is gone."""
        try:
            return os.read(self._descriptor, self._most_bytes) or None
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Listen no more."""
        os.close(self._descriptor)


def _make_pipe(path: Path) -> int:
    os.mkfifo(path, 0o600)
    # Open for both, it neither waits for a listener nor breaks when one goes.
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
