"""Settings from the environment, read once at start.

A service declares a frozen dataclass; each field without a default is required. A wrong value
stops the process before it binds a port, and the message names the variable.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


_LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_MOST_MESSAGE_MIB = 2047  # gRPC counts a message's bytes in an int32


class ConfigError(Exception):
    """A setting is missing or malformed."""


class WrongValue(ConfigError):
    """A setting's value has the right type but cannot be used; its dataclass may raise this."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field
        self.why = why

    def under(self, prefix: str) -> str:
        """The message, with the variable's name for the field's."""
        return f"{_variable(prefix, self.field)}: {self.why}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """Settings of every service.

    Attributes:
        listen: where it serves gRPC: `unix:PATH`, or `HOST:PORT` where port 0 picks a free one.
        metrics_listen: `HOST:PORT` of its own Prometheus endpoint, or `off`.
        log_format: `text` for people, `json` for machines.
        log_level: a level name of Python's logging.
        max_message_mib: largest gRPC message it takes, in MiB.
        max_request_mib: largest request that it takes as a server, in MiB; 0: as any message.
        grace_s: how long calls in flight may go on after a stop is requested, in seconds.
        parent_pid: end when this process, which must be the parent, ends; 0: do not.
        restarts: number of restarts by its supervisor; it is only reported.
    """

    listen: str
    metrics_listen: str = "off"
    log_format: str = "text"
    log_level: str = "info"
    max_message_mib: int = 32
    max_request_mib: int = 0
    grace_s: float = 5.0
    parent_pid: int = 0
    restarts: int = 0

    def __post_init__(self) -> None:
        if self.log_format not in _LOG_FORMATS:
            raise WrongValue("log_format", f"{self.log_format!r} is not text or json")
        if self.log_level.lower() not in LOG_LEVELS:
            levels = ", ".join(LOG_LEVELS)
            raise WrongValue("log_level", f"{self.log_level!r} is none of {levels}")
        if not 1 <= self.max_message_mib <= _MOST_MESSAGE_MIB:
            why = f"{self.max_message_mib} is not from 1 to {_MOST_MESSAGE_MIB}"
            raise WrongValue("max_message_mib", why)
        if not 0 <= self.max_request_mib <= _MOST_MESSAGE_MIB:
            why = f"{self.max_request_mib} is not from 0 to {_MOST_MESSAGE_MIB}"
            raise WrongValue("max_request_mib", why)
        if self.grace_s < 0:
            raise WrongValue("grace_s", f"{self.grace_s} is less than 0")
        if self.restarts < 0:
            raise WrongValue("restarts", f"{self.restarts} is less than 0")


def _variable(prefix: str, field: str) -> str:
    return f"{prefix}_{field}".upper()


def _parse_bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError(f"not a boolean: {text!r}") from None


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {text!r}")
    return value


_PARSERS: Mapping[type, Any] = {str: str, int: int, float: _parse_float, bool: _parse_bool}


# What Kubernetes sets in every container for each Service X of the namespace. A setting whose name
# ends like `_LINK` is distinguished from it by the value.
_SERVICE = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)"
)
_LINK = re.compile(r"\w+_PORT(_\d+_(TCP|UDP|SCTP))?")
_LINK_VALUES = ("tcp://", "udp://", "sctp://")


def _injected_by_kubernetes(name: str, value: str) -> bool:
    """True if a variable is not ours, neither to read nor to refuse."""
    if _SERVICE.fullmatch(name):
        return True
    return _LINK.fullmatch(name) is not None and value.startswith(_LINK_VALUES)


def load(cls: type[T], prefix: str, env: Mapping[str, str] = os.environ) -> T:
    """Build `cls` from the variables `<prefix>_<FIELD>`.

    Raises:
        ConfigError: a required variable is missing, malformed or refused by `cls`, or one starts
            with `prefix` but belongs to no field (a misspelling must not be silently ignored).
    """
    ours = {
        name: text
        for name, text in env.items()
        if name.startswith(f"{prefix}_".upper()) and not _injected_by_kubernetes(name, text)
    }
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = _variable(prefix, field.name)
        if name in ours:
            try:
                values[field.name] = _PARSERS[hints[field.name]](ours.pop(name))
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from error
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{name} is required")
    if ours:
        raise ConfigError(f"unknown setting(s): {', '.join(sorted(ours))}")
    try:
        return cls(**values)
    except WrongValue as error:
        raise ConfigError(error.under(prefix)) from error
