"""A private folder for the sockets of one deployment.

Its owner holds a lock in it for life; by the lock the next start distinguishes it from a folder
that a killed supervisor left behind.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chassis.errors import StartError

_PREFIX = "triptych-"
_LOCK = "lock"
_UNFINISHED = "lock.unfinished"


@contextmanager
def runtime_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user may enter, for the block; remove those left behind.

    Args:
        parent: where; None: the system's folder for temporary files.

    Raises:
        StartError: it cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    _sweep(parent)
    try:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        lock = os.open(folder / _UNFINISHED, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"cannot make a folder in {parent}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now may a sweep try the lock: before, it would find it free.
        os.rename(folder / _UNFINISHED, folder / _LOCK)
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove the lock last: if this is cut short, the next start still knows the folder."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            with suppress(OSError):
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove the folders whose owners are gone."""
    for path in parent.glob(f"{_PREFIX}*/{_LOCK}"):
        try:
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another user's, or just removed by its owner
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path.parent)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)
