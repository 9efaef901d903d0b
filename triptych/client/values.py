"""Values that come from a caller, checked before they are put into a message.

protobuf takes bytes for text and truth values for numbers; a caller who gives those has made a
mistake, so it is said here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Number, Real
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message as ProtoMessage

from triptych.client.options import OptionError

_DEPTH = 100  # levels of nesting; a router takes fewer and says how many


def put(message: ProtoMessage, name: str, value: Any) -> None:
    """Set the field `name` of `message`.

    Raises:
        OptionError: the field cannot hold `value`.
    """
    kind = message.DESCRIPTOR.fields_by_name[name].type
    if kind == FieldDescriptor.TYPE_STRING:
        value = text(name, value)
    elif isinstance(value, Number) and isinstance(value, bool) != (
        kind == FieldDescriptor.TYPE_BOOL
    ):
        wanted = "True or False" if kind == FieldDescriptor.TYPE_BOOL else "a number"
        raise OptionError(f"{name}: expected {wanted}, not {value!r}")
    try:
        setattr(message, name, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{name}: {error}") from error


def extend(name: str, field: Any, values: Any) -> None:
    """Add `values` to the repeated `field` of the option `name`.

    Raises:
        OptionError: one of them is no integer that the field can hold.
    """
    several = listed(name, values)
    if bool in set(map(type, several)):
        raise OptionError(f"{name}: expected integers, not True or False")
    try:
        field.extend(several)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name}: {error}") from error


def texts(name: str, values: str | Iterable[Any] | None) -> list[str]:
    """One text or several as a list; none for None.

    Raises:
        OptionError: one of them is not text.
    """
    if isinstance(values, str):
        return [text(name, values)]
    return [text(name, value) for value in listed(name, values)]


def listed(name: str, values: Any) -> list[Any]:
    """Several values as a list; none for None.

    Raises:
        OptionError: `values` is a single value, or cannot be iterated.
    """
    if values is None:
        return []
    try:
        several = None if isinstance(values, (str, bytes, Mapping)) else list(values)
    except TypeError:
        several = None
    if several is None:
        raise OptionError(f"{name}: expected a list, not {type(values).__name__}")
    return several


def text(name: str, value: Any) -> str:
    """`value`, if it is text that can be sent.

    Raises:
        OptionError: it is something else, or holds half a surrogate pair; bytes of another
            encoding come in as such halves.
    """
    if not isinstance(value, str):
        raise OptionError(f"{name}: expected text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise OptionError(f"{name}: not UTF-8 at character {error.start + 1}") from error
    return value


def as_json(name: str, value: Any) -> str:
    """`value` as JSON, in its own order of keys.

    Raises:
        OptionError: JSON cannot hold a part of it, whose path the message begins with.
    """
    return json.dumps(_plain(name, value, _DEPTH), ensure_ascii=False)


def _plain(path: str, value: Any, depth: int) -> Any:
    if depth == 0:
        raise OptionError(f"{path[:100]}…: nested more than {_DEPTH} deep")
    if isinstance(value, str):
        return text(path, value)
    if isinstance(value, Mapping):
        return {
            _key(path, key): _plain(f"{path}.{key}", inner, depth - 1)
            for key, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(f"{path}[{i}]", inner, depth - 1) for i, inner in enumerate(value)]
    return _scalar(path, value)


def _key(path: str, key: Any) -> str:
    if not isinstance(key, str):
        raise OptionError(f"{path}: the key {key!r} is no text")
    return text(path, key)


def _scalar(path: str, value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if not isinstance(value, Real):
        raise OptionError(f"{path}: JSON cannot hold a value of type {type(value).__name__}")
    if not math.isfinite(value):
        raise OptionError(f"{path}: JSON cannot hold {float(value)}")
    return float(value)
