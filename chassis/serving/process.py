"""Parent, orphans, standard streams and signals of a process."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from typing import NoReturn

from chassis.errors import StartError

_PR_SET_PDEATHSIG = 1
_PR_GET_CHILD_SUBREAPER = 37

_FORWARDED = frozenset(
    {
        *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGUSR1, signal.SIGUSR2),
    }
)


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


def open_standard_streams() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr.

    Otherwise the next socket would take its number, and be written what is meant for the stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # It takes the lowest number that is free, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def unless_ignored(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Signals among `numbers` that this process was not started to ignore.

    `nohup` makes a process ignore SIGHUP.
    """
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def reap_orphans() -> None:
    """Fork if this process adopts orphans: the child goes on, the parent only reaps.

    The first process of a container adopts each process whose parent ends, and so does a
    subreaper. Reaping them beside one's own children would take the exit codes that others wait
    for. Signals are passed on to the child, and its exit code is this process's.

    Call it before the first thread is started.
    """
    if not _adopts_orphans():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would leave nothing to wait for
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    parent = os.getpid()
    child = os.fork()
    if child:
        _reap_until_end(child)
    die_with_parent(parent)
    _take_terminal()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _adopts_orphans() -> bool:
    adopts = ctypes.c_int()
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(adopts), 0, 0, 0)
    return os.getpid() == 1 or adopts.value != 0


def _take_terminal() -> None:
    """Receive a terminal's signals directly, and not once more through the parent."""
    os.setpgid(0, 0)
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    with suppress(OSError):  # there is no terminal
        os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, before)


def _reap_until_end(child: int) -> NoReturn:
    """Reap all, pass signals on to `child`, and end as it does."""
    while True:
        number = signal.sigwait(_FORWARDED | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
                os._exit(code if code >= 0 else 128 - code)
