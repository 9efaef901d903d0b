"""One computation in a fork of this process, which can do other things meanwhile and end it.

What the computation takes of memory ends with it. This process has one thread, as a fork of more
could wait for a lock that no thread of its own holds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from array import array
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

from chassis.errors import InvalidRequest, StartError, refuse_failures
from chassis.serving.process import die_with_parent

_CONTEXT = multiprocessing.get_context("fork")


class Between(Protocol):
    """Callback at points where work can be interrupted; an exception ends the work."""

    def __call__(self, until: int | None = None) -> None:
        """Do other work; more of it until descriptor `until`, if given, is readable."""


class ComputationFailed(Exception):
    """The computation failed; the message is its error."""


def compute_in_fork(compute: Callable[[], array[int]], between: Between) -> array[int]:
    """Run `compute` in a fork, and return its result.

    This process ends where the fork is killed or cannot start, for instance for want of memory.

    Args:
        compute: called in the fork.
        between: called once the fork runs.

    Raises:
        ComputationFailed: it raised an exception.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_answer, args=(compute, theirs, os.getpid()))
    try:
        child.start()
    except OSError as error:
        sys.exit(f"triptych tokenizer: no process for a long text: {error}")
    theirs.close()
    try:
        between(ours.fileno())
        result = ours.recv()
    except EOFError:
        sys.exit("triptych tokenizer: the process that encoded a long text was killed")
    finally:
        child.kill()
        child.join()
        ours.close()
    if isinstance(result, str):
        raise ComputationFailed(result)
    assert isinstance(result, array)
    return result


def _answer(compute: Callable[[], array[int]], answer: Connection, parent_pid: int) -> None:
    with suppress(StartError):
        die_with_parent(parent_pid)
        answer.send(_result(compute))


def _result(compute: Callable[[], array[int]]) -> array[int] | str:
    """Result of `compute`, or the message of its failure."""
    try:
        with refuse_failures("text", "the tokenizer"):
            return compute()
    except InvalidRequest as error:
        return str(error.__cause__)
