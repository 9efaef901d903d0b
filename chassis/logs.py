"""Structured logs: one line a record, each with the service and the request it is about.

A record's request id is the `request_id` given in `extra` where a line is about a request of
another task, else the one bound to the running task, else the one that was bound where the
exception it tells of was raised. In text a traceback follows its line; nothing else a record holds
can begin a line, whoever sent it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from chassis.config import ConfigError

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

    So is a line that tells of an exception raised in the block, wherever it is logged.
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


def _printable(text: str) -> str:
    """Control characters, line ends among them, as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, request_id, event and what `extra` held.

    A key of `extra` that is taken gets `extra_` in front.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extras = _extras(record)
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "request_id": _subject(record, extras),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line.update({f"extra_{key}" if key in line else key: extras[key] for key in extras})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """`time level service [request id] event key=value …`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extras = _extras(record)
        request_id = _subject(record, extras)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {self._service:11} "
            f"[{request_id}] {record.getMessage()}"
        )
        line += "".join(f" {key}={value}" for key, value in extras.items())
        line = _printable(line)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(makers[log_format](service))
    logging.basicConfig(level=number, handlers=[handler], force=True)
