"""Standard streams of a command, in any state that its caller left them in.

A closed stream is one to /dev/null: a command without a reader does its work all the same, and no
socket gets the number of a standard stream. What an encoding lacks is written as an escape such as
`\\xe9`. Bytes of stdin that are no text are found by their reader.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import TextIO


def prepare() -> None:
    """Open closed streams, and let no character fail."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    _on_error(sys.stdin, "surrogateescape")
    for stream in (sys.stdout, sys.stderr):
        _on_error(stream, "backslashreplace")


def _on_error(stream: TextIO, handler: str) -> None:
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors=handler)


def finish() -> None:
    """Write the buffers out; after a failure, prevent another try at exit.

    Raises:
        OSError: stdout takes no more.
    """
    try:
        sys.stdout.flush()
    finally:
        for stream, number in ((sys.stdout, 1), (sys.stderr, 2)):
            try:
                stream.flush()
            except OSError:
                _divert(number)


def _divert(number: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def write(text: str) -> None:
    """Write text to stdout at once, also through a pipe.

    Raises:
        OSError: stdout takes no more.
    """
    sys.stdout.write(text)
    sys.stdout.flush()


def write_line(line: str) -> None:
    """Write one line to stderr; a closed stderr is no error."""
    with suppress(OSError):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def complain(message: str) -> None:
    """Write an error message of one line."""
    write_line(f"triptych: {' '.join(message.split())}")


def is_unicode() -> bool:
    """True where stdout takes every character as it is."""
    return (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
