"""A process's ties to the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal

from chassis.errors import StartError

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel end this process when `parent_pid`, its parent, ends.

    Raises:
        StartError: the parent has already ended.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The parent may have ended before the call above; then nobody would send the signal.
    if os.getppid() != parent_pid:
        raise StartError(f"parent process {parent_pid} has ended; not starting without it")
