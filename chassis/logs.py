"""Structured logs: one line a record, each with the service and the request it is about.

A record's request id is the one bound to the running task, or the `request_id` given in `extra`
where a line is about a request of another task.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from chassis.config import ConfigError

_request_id: ContextVar[str] = ContextVar("request_id", default="-")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def about(request_id: str) -> Iterator[None]:
    """Name the request that every line logged inside the block is about."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def current_request_id() -> str:
    """The request the running task works for, or `-`."""
    return _request_id.get()


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, service, request_id, event and what `extra` held."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "request_id": _request_id.get(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        line.update(_extras(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """`time level service [request id] event key=value …`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        extras = _extras(record)
        request_id = extras.pop("request_id", _request_id.get())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = (
            f"{clock}.{int(record.msecs):03d} {record.levelname.lower():7} {self._service:11} "
            f"[{request_id}] {record.getMessage()}"
        )
        line += "".join(f" {key}={value}" for key, value in extras.items())
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
