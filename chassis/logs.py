"""Structured logs: one line a record, each with the service and the request it is about.

A record's request id is the `request_id` given in `extra` where a line is about a request of
another task, else the one bound to the running task, else the one that was bound where the
exception it reports was raised. Each value is printable and has at most `MOST_VALUE_BYTES`. In
text a traceback follows its line; nothing else in a record can begin a line.
Nobody waits for a line to be written, and a line that cannot be is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from functools import lru_cache, partial
from traceback import TracebackException
from types import TracebackType
from typing import Any

from chassis.config import ConfigError
from chassis.line_stream import LineStream

log = logging.getLogger(__name__)

MOST_VALUE_BYTES = 2048
MOST_TRACEBACK_CHARACTERS = 8192
DROPPED = "log lines were dropped: they were not read"
_MOST_BITS = 64

_request_id: ContextVar[str] = ContextVar("request_id", default="-")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _About:
    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._token: Token[str]

    def __enter__(self) -> None:
        self._token = _request_id.set(self._request_id)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _request_id.reset(self._token)
        if error is not None:
            # It may be logged outside the block, where the binding is gone. Overwritten, because
            # one exception may end several requests in turn.
            vars(error)["request_id"] = self._request_id


def about(request_id: str) -> AbstractContextManager[None]:
    """Name the request that every line logged inside the block is about.

    So is a line about an exception raised in the block, wherever it is logged.
    """
    return _About(request_id)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _subject(record: logging.LogRecord, extras: dict[str, Any]) -> str:
    """The request a record is about; taken out of `extras` if it is there."""
    given = extras.pop("request_id", None)
    if given is not None:
        return str(given)
    bound = _request_id.get()
    if bound == "-" and record.exc_info and record.exc_info[1] is not None:
        return str(vars(record.exc_info[1]).get("request_id", bound))
    return bound


def printable(text: str, most_bytes: int = MOST_VALUE_BYTES) -> str:
    """Escape the control characters of `text`, line ends among them, and cut it to `most_bytes`.

    Letters of any script stay as they are. What this returned once, it leaves alone.
    """
    if len(text) <= most_bytes and text.isascii() and text.isprintable():
        return text  # as nearly all are
    shown = text[:most_bytes]
    if not shown.isprintable():
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in shown)
    raw = shown.encode()
    if len(text) <= most_bytes and len(raw) <= most_bytes:
        return shown
    length = f"… ({len(text)} characters)"
    return raw[: most_bytes - len(length.encode())].decode(errors="ignore") + length


def show_fields(fields: Mapping[str, Any]) -> str:
    """Show ` key=value` for each of `fields` that is not zero, empty or None."""
    return "".join(f" {key}={_shown(value)}" for key, value in fields.items() if _tells(value))


def _tells(value: object) -> bool:
    return isinstance(value, bool) or value not in (None, 0, "")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _json_value(value: object) -> Any:
    """`value` as JSON may hold it: printable and bounded, numbers as numbers."""
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= _MOST_BITS else printable(hex(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return _bounded({printable(str(key)): _json_value(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return _bounded([_json_value(each) for each in value])
    return printable(str(value))


def _bounded(value: dict[str, Any] | list[Any]) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text.encode()) <= MOST_VALUE_BYTES else printable(text)


def show_traceback(error: BaseException) -> str:
    """The lines of a traceback, in which messages of exceptions are printable and bounded."""
    text = "\n".join(_traceback(TracebackException.from_exception(error)))
    if len(text) <= MOST_TRACEBACK_CHARACTERS:
        return text
    half = MOST_TRACEBACK_CHARACTERS // 2
    return f"{text[:half].rpartition(chr(10))[0]}\n  …\n{text[-half:].partition(chr(10))[2]}"


def _traceback(error: TracebackException) -> Iterator[str]:
    if error.__cause__ is not None:
        yield from _traceback(error.__cause__)
        yield from ("", "The above exception was the direct cause of the following exception:", "")
    elif error.__context__ is not None and not error.__suppress_context__:
        yield from _traceback(error.__context__)
        yield from ("", "During handling of the above exception, another exception occurred:", "")
    if error.stack:
        yield "Traceback (most recent call last):"
        for line in "".join(error.stack.format()).splitlines():
            yield printable(line)
    yield printable("".join(error.format_exception_only()).rstrip("\n"))
    for number, each in enumerate(error.exceptions or (), start=1):
        yield f"  exception {number} of the group:"
        yield from (f"  | {line}" for line in _traceback(each))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, request_id, event and the fields of `extra`.

    A key of `extra` that is taken gets `extra_` in front.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extras = _extras(record)
        line: dict[str, Any] = {
            "time": f"{_second(int(record.created))}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "request_id": printable(_subject(record, extras)),
            "event": printable(record.getMessage()),
            "logger": record.name,
        }
        for key, value in extras.items():
            line[f"extra_{key}" if key in line else key] = _json_value(value)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = show_traceback(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


@lru_cache(maxsize=1)  # lines come many a second
def _second(seconds: int) -> str:
    """The time in UTC, `seconds` after the epoch."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class TextFormatter(logging.Formatter):
    """`time level service [request id] event key=value …`; zeros are left out."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extras = _extras(record)
        request_id = _subject(record, extras)
        subject = "" if request_id == "-" else f"[{printable(request_id)}] "
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {self._service:11} "
            f"{subject}{printable(record.getMessage())}{show_fields(extras)}"
        )
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + show_traceback(record.exc_info[1])
        return line


def configure(service: str, *, log_format: str, level: str) -> None:
    """Send all records to stderr in `log_format` (`text` or `json`) from `level` on.

    Raises:
        ConfigError: the format or the level is unknown.
    """
    makers = {"text": TextFormatter, "json": JsonFormatter}
    if log_format not in makers:
        raise ConfigError(f"log format {log_format!r}: expected text or json")
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ConfigError(f"log level {level!r}: expected debug, info, warning or error")
    formatter = makers[log_format](service)
    if isinstance(sys.stderr, LineStream):
        sys.stderr.report_dropped = partial(_report_dropped, formatter)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=number, handlers=[handler], force=True)


def _report_dropped(formatter: logging.Formatter, lines: int) -> str:
    record = log.makeRecord(
        __name__, logging.WARNING, __file__, 0, DROPPED, (), None, extra={"lines": lines}
    )
    return formatter.format(record) + "\n"


def unblock() -> bool:
    """Make stdout and stderr neither wait for a reader nor fail without one.

    All that Python writes goes through a `LineStream`: logs, warnings, tracebacks, a last word. A
    stream that stands for another, as in tests, stays.

    Returns:
        Whether stderr was this process's own.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = LineStream(1)
    if sys.stderr is not sys.__stderr__:
        return False
    sys.stderr = LineStream(2)
    sys.excepthook = _write_end
    threading.excepthook = _log_end_of_thread
    return True


def _write_end(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr.write(show_traceback(error) + "\n")


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        log.error("a thread has ended with an error", exc_info=ended.exc_value)


def dropped_lines() -> int:
    """Number of lines of this process that were not written to its stderr."""
    return sys.stderr.dropped if isinstance(sys.stderr, LineStream) else 0
