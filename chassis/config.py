"""Settings from the environment, read once at start.

A service declares a frozen dataclass; each field without a default is required. A wrong value
stops the process before it binds a port, and the message names the variable.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")


class ConfigError(Exception):
    """A setting is missing or malformed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every service can be told.

    Attributes:
        listen: where it serves gRPC: `unix:PATH`, or `HOST:PORT` where port 0 picks a free one.
        metrics_listen: `HOST:PORT` of its own Prometheus endpoint, or `off`.
        log_format: `text` for people, `json` for machines.
        log_level: a level name of Python's logging.
        max_message_mib: largest gRPC message it takes, in MiB.
        grace_s: how long calls in flight may go on once it is told to stop, in seconds.
        parent_pid: end when this process, which must be the parent, ends; 0: do not.
    """

    listen: str
    metrics_listen: str = "off"
    log_format: str = "text"
    log_level: str = "info"
    max_message_mib: int = 32
    grace_s: float = 5.0
    parent_pid: int = 0


def _parse_bool(text: str) -> bool:
    try:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError(f"not a boolean: {text!r}") from None


_PARSERS: Mapping[type, Any] = {str: str, int: int, float: float, bool: _parse_bool}


# What Kubernetes sets in every container for each Service X of the namespace. A setting whose name
# ends like `_LINK` is told from it by the value.
_SERVICE = re.compile(
    r"\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)_(PROTO|PORT|ADDR)"
)
_LINK = re.compile(r"\w+_PORT(_\d+_(TCP|UDP|SCTP))?")
_LINK_VALUES = ("tcp://", "udp://", "sctp://")


def _injected_by_kubernetes(name: str, value: str) -> bool:
    """Whether a variable is none of ours, neither to read nor to refuse."""
    if _SERVICE.fullmatch(name):
        return True
    return _LINK.fullmatch(name) is not None and value.startswith(_LINK_VALUES)


def load(cls: type[T], prefix: str, env: Mapping[str, str] = os.environ) -> T:
    """Build `cls` from the variables `<prefix>_<FIELD>`.

    Raises:
        ConfigError: a required variable is missing, malformed, or starts with `prefix` but
            belongs to no field (a misspelling must not be silently ignored).
    """
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    known = set()
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{prefix}_{field.name}".upper()
        known.add(name)
        if name in env and not _injected_by_kubernetes(name, env[name]):
            try:
                values[field.name] = _PARSERS[hints[field.name]](env[name])
            except ValueError as error:
                raise ConfigError(f"{name}: {error}") from error
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"{name} is required")
    strays = {
        name
        for name, value in env.items()
        if name.startswith(f"{prefix}_".upper()) and not _injected_by_kubernetes(name, value)
    } - known
    if strays:
        raise ConfigError(f"unknown setting(s): {', '.join(sorted(strays))}")
    return cls(**values)
