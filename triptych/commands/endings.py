"""How a command ends when something is wrong: one line on stderr, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from chassis.errors import StartError
from triptych.client import (
    DeadlineExceeded,
    InvalidRequest,
    OptionError,
    TriptychError,
    Unavailable,
)

INTERRUPTED = 130


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn the failures a user can mend into a line on stderr and an exit code.

    Raises:
        typer.Exit: with 1 after a failure, with 130 after Ctrl-C.
    """
    try:
        yield
    except TriptychError as error:
        complain(describe(error))
        raise typer.Exit(1) from error
    except (StartError, OptionError) as error:
        complain(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        if sys.stderr.isatty():
            typer.echo(err=True)  # the terminal has written ^C
        raise typer.Exit(INTERRUPTED) from error


def complain(message: str) -> None:
    """Write one line to stderr."""
    typer.echo(f"triptych: {' '.join(message.split())}", err=True)


def describe(error: TriptychError) -> str:
    """What failed, where, and what to do about it."""
    if isinstance(error, Unavailable) and not error.reason:
        return (
            f"nothing answers at {error.address}; start it with `triptych serve --model …`, "
            f"or name another --address"
        )
    if isinstance(error, DeadlineExceeded) and isinstance(error.__cause__, Unavailable):
        return describe(error.__cause__)  # the timeout passed while nothing answered
    if isinstance(error, DeadlineExceeded):
        return f"no answer from {error.address} in time"
    if isinstance(error, InvalidRequest):
        return f"the request was refused: {error.message}"
    text = f"{error.address}: {error.message} ({error.reason or error.status.name})"
    if error.retry_after_s is not None:
        text += f"; try again in {error.retry_after_s:g} s"
    return text
