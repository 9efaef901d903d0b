"""Text that a user types or pipes in.

Text is UTF-8 whatever the locale says; bytes that are not are refused with their place.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from triptych.client import OptionError

Read = Callable[[str], str]
"""Shows a prompt and reads a line without its end; EOFError where there is none."""

_QUOTES = '"""'


def as_utf8(argument: str) -> str:
    """An argument of the command line, decoded again where the locale's encoding could not.

    What is not UTF-8 either stays as it is, and is refused by name when it is sent.
    """
    try:
        argument.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeError):
            return os.fsencode(argument).decode()
    return argument


def read_stdin() -> str:
    """Read all of stdin, unchanged.

    Raises:
        OptionError: it cannot be read, or is not UTF-8.
    """
    with _refusing_failures():
        raw = sys.stdin.buffer.read()
    return _decode(raw, "stdin")


@contextmanager
def _refusing_failures() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OptionError(f"stdin: cannot be read: {error.strerror}") from error


def _decode(raw: bytes, name: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise OptionError(f"{name}: not UTF-8 at byte {error.start + 1}") from error


class PipedLines:
    """Lines of a stdin that is no terminal; no prompt is shown."""

    def __init__(self) -> None:
        self._number = 0

    def read(self, _prompt: str) -> str:
        """The next line; a `Read`.

        Raises:
            OptionError: it cannot be read, or is not UTF-8.
        """
        self._number += 1
        with _refusing_failures():
            raw = sys.stdin.buffer.readline()
        if not raw:
            raise EOFError
        return _decode(raw, f"line {self._number} of stdin").removesuffix("\n").removesuffix("\r")


def read_from_terminal(prompt: str) -> str:
    """A line that was typed, with line editing and history; a `Read`.

    The prompt stands on stderr where stdout is no terminal: what is redirected is answers.
    """
    with suppress(ImportError):
        import readline  # noqa: F401  (makes `input` edit)
    if sys.stdout.isatty():
        return as_utf8(input(_coloured(prompt)))
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return as_utf8(input())


def _coloured(prompt: str) -> str:
    """`prompt` in colour; readline learns which of its characters take no room."""
    if "NO_COLOR" in os.environ or os.environ.get("TERM", "dumb") == "dumb":
        return prompt
    return f"\001\x1b[1;36m\002{prompt}\001\x1b[0m\002"


def read_entry(read: Read, prompt: str) -> str:
    """An entry of one line, or of several.

    A line that ends with a backslash goes on in the next. Three double quotes begin an entry that
    ends with the next three, or with the input.

    Raises:
        EOFError: there is no line.
    """
    line = read(prompt)
    more = "... ".rjust(len(prompt))
    if line.lstrip().startswith(_QUOTES):
        return _read_quoted(read, more, line.lstrip().removeprefix(_QUOTES))
    lines = [line]
    with suppress(EOFError):
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1].removesuffix("\\")
            lines.append(read(more))
    return "\n".join(lines)


def _read_quoted(read: Read, more: str, line: str) -> str:
    lines = [line]
    with suppress(EOFError):
        while not lines[-1].rstrip().endswith(_QUOTES):
            lines.append(read(more))
    lines[-1] = lines[-1].rstrip().removesuffix(_QUOTES)
    return "\n".join(lines)
