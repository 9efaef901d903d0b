"""End of a command when something is wrong: one line on stderr, never a traceback."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from chassis.errors import StartError
from triptych import stdio
from triptych.client import (
    Cancelled,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    OptionError,
    Overloaded,
    TriptychError,
    Unavailable,
)

INTERRUPTED = 130

_TOO_LARGE = re.compile(r"(\w+: \w+) message larger than max \((\d+) vs\. (\d+)\)")
_MIB = 1 << 20


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the failures a user can mend into a line on stderr and an exit code.

    Raises:
        typer.Exit: with 1 after a failure, with 130 after Ctrl-C.
    """
    try:
        with _unwinding_on_interrupt():
            yield
    except TriptychError as error:
        stdio.complain(describe(error))
        raise typer.Exit(1) from error
    except (StartError, OptionError) as error:
        stdio.complain(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        if sys.stderr.isatty():
            stdio.write_line("")  # the terminal has written ^C
        raise typer.Exit(INTERRUPTED) from error


@contextmanager
def _unwinding_on_interrupt() -> Iterator[None]:
    """Ctrl-C raises inside the block; before and after it is as the process began."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_DFL:
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def describe(error: TriptychError) -> str:
    """Message about a failure: what, where, and the remedy."""
    if error.begun and isinstance(error, (Cancelled, Unavailable)) and _is_of_connection(error):
        return f"the server at {error.address} stopped while it answered; the answer is incomplete"
    if isinstance(error, Unavailable) and not error.reason:
        return _describe_absence(error)
    if isinstance(error, DeadlineExceeded):
        if isinstance(error.__cause__, Unavailable):
            return describe(error.__cause__)  # the timeout passed while nothing answered
        if error.begun:
            return f"the timeout has passed; the answer of {error.address} is incomplete"
        return f"no answer from {error.address} in time"
    if isinstance(error, InvalidRequest):
        return f"the request was refused: {error.message}"
    if isinstance(error, Overloaded) and (found := _TOO_LARGE.search(error.message)):
        return _describe_size(error.address, *found.groups())
    if not error.reason and _is_stranger(error):
        return (
            f"what answers at {error.address} is no Triptych server, or one of another version: "
            f"{error.message}"
        )
    text = f"{error.address}: {error.message} ({error.reason or error.status.name})"
    if error.retry_after_s is not None:
        text += f"; try again in {error.retry_after_s:g} s"
    return text


def _is_of_connection(error: TriptychError) -> bool:
    """True where the end of the server or of the connection ended the call."""
    return isinstance(error, Cancelled) or error.reason in ("", "STOPPING")


def _is_stranger(error: TriptychError) -> bool:
    undecoded = isinstance(error, InternalError) and "deserializing" in error.message
    return undecoded or error.status.name in ("UNIMPLEMENTED", "UNKNOWN")


def _describe_absence(error: Unavailable) -> str:
    if "DNS resolution failed" in error.message:
        return f"the host of {error.address} is unknown; name another --address"
    if "http1.x" in error.message or "HTTP/2" in error.message:
        return f"what answers at {error.address} is no gRPC server; name another --address"
    if "Socket closed" in error.message:
        return (
            f"{error.address} closes the connection; is it a Triptych server, and without TLS? "
            f"Else name another --address"
        )
    return (
        f"nothing answers at {error.address}; start it with `triptych serve --model DIR`, "
        f"or name another --address"
    )


def _describe_size(address: str, refusal: str, size: str, limit: str) -> str:
    sizes = f"{_in_bytes(size)}, and at most {_in_bytes(limit)} are taken"
    if refusal in ("CLIENT: Received", "SERVER: Sent"):
        return f"the answer of {address} is too large: {sizes}; ask for less"
    return f"the request is too large for {address}: {sizes}; shorten the prompt"


def _in_bytes(count: str) -> str:
    return f"{count} bytes" if int(count) < _MIB else f"{int(count) / _MIB:.1f} MiB"
