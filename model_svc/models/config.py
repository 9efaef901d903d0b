"""Read a checkpoint's JSON files, and config.json value by value, checked for type and range.

Invariant: every fault ends in a `CheckpointError` of one line that names the entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CheckpointError(Exception):
    """A checkpoint cannot be served; the message is one line with the fault and the remedy."""


class MalformedConfig(CheckpointError):
    """An entry of config.json is missing, of the wrong type or out of range."""


class UnsupportedOption(CheckpointError):
    """config.json asks for something that this version cannot compute."""


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no such file.

    Raises:
        CheckpointError: it cannot be read, or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedConfig(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise MalformedConfig(f"{path} holds {type(value).__name__}, expected an object")
    return value


class Config:
    """config.json, or an object inside it."""

    def __init__(self, entries: Mapping[str, Any], inside: str = "") -> None:
        """Wrap `entries`; `inside` is the dotted name of the object they are from, for messages."""
        self._entries = entries
        self._inside = inside

    def name(self, key: str) -> str:
        """Name of the entry `key` in messages."""
        return f"config.json: {self._inside}{key}"

    def has(self, key: str) -> bool:
        """True where the entry is there and not null."""
        return self._entries.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1; `default` stands in for a missing or null entry.

        Raises:
            MalformedConfig: it is none, or is missing without a default.
        """
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected a whole number >= 1")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0; `default` stands in for a missing or null entry.

        Raises:
            MalformedConfig: it is none, or is missing without a default.
        """
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected a number")
        if not (math.isfinite(value) and value > 0):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; `default` stands in for a missing or null entry.

        Raises:
            MalformedConfig: it is neither.
        """
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected true or false")
        return value

    def text(self, key: str, default: str) -> str:
        """A string; `default` stands in for a missing or null entry.

        Raises:
            MalformedConfig: it is not a string.
        """
        value = self._value(key, default)
        if not isinstance(value, str):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected a string")
        return value

    def strings(self, key: str) -> list[str]:
        """A list of strings; empty where the entry is missing or null.

        Raises:
            MalformedConfig: it is not a list of strings.
        """
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected a list of strings")
        return value

    def section(self, key: str) -> Config:
        """The object at `key`; empty where the entry is missing or null.

        Raises:
            MalformedConfig: it is not an object.
        """
        value = self._value(key, {})
        if not isinstance(value, dict):
            raise MalformedConfig(f"{self.name(key)} is {value!r}, expected an object")
        return Config(value, f"{self._inside}{key}.")

    def require(self, key: str, wanted: object) -> None:
        """Refuse every value of an option but the one that is supported; absent is supported.

        Raises:
            UnsupportedOption: the entry is there and not `wanted`.
        """
        value = self._value(key, wanted)
        if value != wanted:
            raise UnsupportedOption(
                f"{self.name(key)} is {value!r}, and only {wanted!r} is supported"
            )

    def _value(self, key: str, default: object) -> Any:
        value = self._entries.get(key)
        if value is not None:
            return value
        if default is None:
            raise MalformedConfig(f"{self.name(key)} is missing")
        return default
