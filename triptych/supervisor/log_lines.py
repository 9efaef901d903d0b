"""Log lines of the services and the supervisor, parsed and formatted for people."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from chassis.logs import DROPPED, JsonFormatter, printable, show_fields

SUPERVISOR = "supervisor"
_LOGGER = "triptych.supervisor"
_SHOWN_APART = frozenset({"time", "level", "service", "request_id", "event", "logger", "exception"})
_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[31m",
}
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One line of a service's log.

    Attributes:
        level: Python's number of it.
        event: what happened.
        fields: everything the line held.
    """

    level: int
    event: str
    fields: Mapping[str, Any]


def parse(line: str) -> LogRecord | None:
    """Read a JSON log line; None where it is something else."""
    try:
        fields = json.loads(line)
        level = logging.getLevelNamesMapping()[fields["level"].upper()]
        return LogRecord(level, str(fields["event"]), fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write(service: str, level: int, event: str, fields: Mapping[str, Any]) -> str:
    """A JSON log line of the supervisor's own, about a service."""
    record = {"name": _LOGGER, "levelno": level, "levelname": logging.getLevelName(level)}
    return JsonFormatter(service).format(logging.makeLogRecord({**record, "msg": event, **fields}))


def own_line(
    level: int,
    event: str,
    fields: Mapping[str, Any],
    *,
    log_format: str,
    name: str = SUPERVISOR,
    coloured: bool = False,
) -> str:
    """A line of the supervisor about itself, in `log_format`; as text it begins with `name`."""
    line = write(SUPERVISOR, level, event, fields)
    record = parse(line)
    if log_format == "json" or record is None:
        return line
    return render(name, record, coloured=coloured)


def report_dropped(lines: int, *, log_format: str) -> str:
    """The supervisor's line, with its end, that so many lines were not shown."""
    return own_line(logging.WARNING, DROPPED, {"lines": lines}, log_format=log_format) + "\n"


def render(service: str, record: LogRecord, *, coloured: bool) -> str:
    """One line for people: time, level, service, request, event and the rest as `key=value`.

    Zeros are left out, and nothing that a record holds can begin a line or steer a terminal.
    """
    fields = record.fields
    text = (
        f"{_clock(fields.get('time'))} {logging.getLevelName(record.level).lower():7} {service:11} "
    )
    request_id = fields.get("request_id", "-")
    if request_id != "-":
        text += f"[{printable(str(request_id))}] "
    text += printable(record.event)
    text += show_fields({k: v for k, v in fields.items() if k not in _SHOWN_APART})
    if "exception" in fields:
        text += "".join(f"\n{printable(line)}" for line in str(fields["exception"]).split("\n"))
    colour = _COLOURS.get(record.level, "")
    return f"{colour}{text}{_PLAIN}" if coloured and colour else text


def _clock(time: object) -> str:
    """Local time of day of an ISO timestamp."""
    second, _, rest = str(time).partition(".")
    thousandths = rest[:3]
    try:
        if rest.isascii() and thousandths.isdecimal() and len(rest) == 4 and rest[3] == "Z":
            return f"{_time_of_day(second + 'Z')}.{thousandths}"
        return f"{datetime.fromisoformat(str(time)).astimezone():%H:%M:%S.%f}"[:-3]
    except ValueError:
        return "--:--:--.---"


@lru_cache(maxsize=4)  # lines come many a second, and conversion to local time is slow
def _time_of_day(second: str) -> str:
    return f"{datetime.fromisoformat(second).astimezone():%H:%M:%S}"
