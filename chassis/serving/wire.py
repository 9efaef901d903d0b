"""Bounds of a message, checked on its bytes before it is parsed.

A message of a few MiB can hold millions of values, and each costs time and memory wherever it is
walked. `check` counts them on the wire and stops at the first bound that is passed. What has a
length is passed over in one step, so that its own cost is bounded by `MOST_FIELDS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from chassis.errors import InvalidRequest

MOST_FIELDS = 20_480
MOST_UNKNOWN_FIELDS = 1_024

_VARINT, _FIXED64, _LENGTH, _GROUP, _GROUP_END, _FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BITS = 64
_LAST_BYTES = bytes(range(0x80))  # a varint ends with one of these

_FIXED_TYPES = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64,
    FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64,
    FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32,
    FieldDescriptor.TYPE_SFIXED32: _FIXED32,
}
_LENGTH_TYPES = frozenset(
    {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE}
)
_COUNTED = "google.protobuf.Value"
_NESTING = frozenset({"google.protobuf.Struct", "google.protobuf.ListValue"})

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ALIKE = bytes.maketrans(b"{}", b"[]")


@dataclass(frozen=True, slots=True)
class Bound:
    """Bounds of a field in one message, all its occurrences together; None: anything goes.

    Attributes:
        count: values; of a google.protobuf.Struct, those of all levels.
        each_bytes: bytes of one value.
        total_bytes: bytes of all values.
        depth: levels of a google.protobuf.Struct, or of JSON in a string.
    """

    count: int | None = None
    each_bytes: int | None = None
    total_bytes: int | None = None
    depth: int | None = None

    def inside(self, *, counted: bool) -> Bound:
        """Bound of the values in a google.protobuf.Struct with this bound."""
        return Bound(count=self.count if counted else None, depth=self.depth)


@dataclass(slots=True)
class _Field:
    """A known field; `inner` is the shape of the message that it holds."""

    path: str
    wire_type: int
    bound: Bound | None
    inner: Shape | None = None


@dataclass(slots=True)
class Shape:
    """The fields of a message by number, with their bounds."""

    nests: bool
    fields: dict[int, _Field] = field(default_factory=dict)

    @classmethod
    def of(cls, descriptor: Descriptor, bounds: Mapping[str, Bound]) -> Shape:
        """The shape of messages of `descriptor`; bounds go by path: `chat.messages.role`."""
        return _shape(descriptor, bounds, "", {})


def _shape(
    descriptor: Descriptor, bounds: Mapping[str, Bound], within: str, above: Mapping[str, Shape]
) -> Shape:
    """The shape of `descriptor` at the path `within`; a message that holds itself has one shape."""
    shape = Shape(nests=descriptor.full_name in _NESTING)
    above = {**above, descriptor.full_name: shape}
    for each in descriptor.fields:
        path = f"{within}.{each.name}" if within else each.name
        known = shape.fields[each.number] = _Field(path, _wire_type(each), bounds.get(path))
        inner = each.message_type
        if inner is None:
            continue
        if inner.full_name in _NESTING and known.bound is not None:
            known.inner = _tree(inner, path, known.bound, {})
            known.bound = replace(known.bound, count=None)
        else:
            known.inner = above.get(inner.full_name) or _shape(inner, bounds, path, above)
    return shape


def _tree(descriptor: Descriptor, path: str, bound: Bound, above: Mapping[str, Shape]) -> Shape:
    """The shape of a google.protobuf.Struct: all that it holds counts as the field at `path`."""
    shape = Shape(nests=descriptor.full_name in _NESTING)
    above = {**above, descriptor.full_name: shape}
    for each in descriptor.fields:
        inner = each.message_type
        counted = inner is not None and inner.full_name == _COUNTED
        known = _Field(path, _wire_type(each), bound.inside(counted=counted))
        if inner is not None:
            known.inner = above.get(inner.full_name) or _tree(inner, path, bound, above)
        shape.fields[each.number] = known
    return shape


def _wire_type(known: FieldDescriptor) -> int:
    return _LENGTH if known.type in _LENGTH_TYPES else _FIXED_TYPES.get(known.type, _VARINT)


def check(shape: Shape, raw: bytes) -> None:
    """Check `raw` against the bounds of `shape`.

    Raises:
        InvalidRequest: a bound is passed; the field is named, with both numbers.
        DecodeError: the bytes are no message.
    """
    _Scan(raw).run(shape)


def checking(descriptor: Descriptor, bounds: Mapping[str, Bound]) -> Callable[[bytes], None]:
    """A function that checks messages of `descriptor` as `check` does."""
    return partial(check, Shape.of(descriptor, bounds))


class _Scan:
    """One pass over the bytes of a message."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._fields = 0
        self._unknown = 0
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._bytes: defaultdict[str, int] = defaultdict(int)
        self._left: list[tuple[int, int, Shape, int]] = []  # start, end, shape, depth

    def run(self, shape: Shape) -> None:
        self._left.append((0, len(self._raw), shape, 0))
        while self._left:
            self._walk(*self._left.pop())

    def _walk(self, at: int, end: int, shape: Shape, depth: int) -> None:
        raw, fields = self._raw, shape.fields
        groups = 0  # open ones; nothing that is known is in one
        while at < end:
            self._fields += 1
            if self._fields > MOST_FIELDS:
                raise _too_much("request", "fields", f"at least {self._fields}", MOST_FIELDS)
            tag, at = (raw[at], at + 1) if raw[at] < 0x80 else _varint(raw, at, end)
            wire_type = tag & 7
            start = at
            if wire_type == _LENGTH:
                size, start = _varint(raw, at, end)
                at = start + size
            elif wire_type == _VARINT:
                _, at = _varint(raw, at, end)
            elif wire_type in _FIXED_BYTES:
                at += _FIXED_BYTES[wire_type]
            else:
                groups += _opened(wire_type)
            if at > end:
                raise DecodeError("a field is longer than its message")
            known = None if groups else fields.get(tag >> 3)
            if known is None or wire_type not in (known.wire_type, _LENGTH):
                self._pass_unknown()
            elif known.bound is not None or known.inner is not None:
                self._enter(known, wire_type, (start, at), depth)

    def _pass_unknown(self) -> None:
        self._unknown += 1
        if self._unknown > MOST_UNKNOWN_FIELDS:
            least = f"at least {self._unknown}"
            raise _too_much("request", "unknown fields", least, MOST_UNKNOWN_FIELDS)

    def _enter(self, known: _Field, wire_type: int, span: tuple[int, int], depth: int) -> None:
        """Count one occurrence of a field, whose content is at `span`."""
        if known.bound is not None:
            self._count(known, known.bound, wire_type, span)
        if known.inner is not None:
            depth += known.inner.nests
            most = known.bound.depth if known.bound is not None else None
            if most is not None and depth > most:
                raise _too_much(known.path, "levels", f"at least {depth}", most)
            if span[0] < span[1]:
                self._left.append((*span, known.inner, depth))

    def _count(self, known: _Field, bound: Bound, wire_type: int, span: tuple[int, int]) -> None:
        start, end = span
        path, size = known.path, end - start
        if bound.each_bytes is not None and size > bound.each_bytes:
            raise _too_much(path, "bytes", size, bound.each_bytes)
        if bound.total_bytes is not None:
            self._bytes[path] += size
            if self._bytes[path] > bound.total_bytes:
                raise _too_much(path, "bytes", self._bytes[path], bound.total_bytes)
        if bound.count is not None:
            packed = wire_type != known.wire_type
            self._counts[path] += self._packed(span, known.wire_type) if packed else 1
            if self._counts[path] > bound.count:
                number = self._counts[path] if packed else f"at least {self._counts[path]}"
                raise _too_much(path, "values", number, bound.count)
        if bound.depth is not None and known.inner is None and wire_type == _LENGTH:
            depth = json_depth(self._raw[start:end], bound.depth)
            if depth > bound.depth:
                raise _too_much(path, "levels", f"at least {depth}", bound.depth)

    def _packed(self, span: tuple[int, int], wire_type: int) -> int:
        """The numbers of `wire_type` in a packed field."""
        start, end = span
        if wire_type in _FIXED_BYTES:
            return (end - start) // _FIXED_BYTES[wire_type]
        content = self._raw[start:end]
        return len(content) - len(content.translate(None, _LAST_BYTES))


def json_depth(text: bytes, most: int) -> int:
    """Levels of arrays and objects in JSON; some number above `most` if there are more.

    A number that is not above it may be too small. Brackets that nothing closes count, because a
    parser goes down for them too.
    """
    if text.count(b"[") + text.count(b"{") <= most:
        return 0
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    brackets = outside_strings.translate(_ALIKE, _NO_BRACKETS)
    for depth in range(most + 1):
        if not brackets:
            return depth
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            return depth + brackets.count(b"[")
        brackets = fewer
    return most + 1


def _opened(wire_type: int) -> int:
    """Number of groups that a tag opens; -1 if it ends one.

    Raises:
        DecodeError: the wire type does not exist.
    """
    if wire_type not in (_GROUP, _GROUP_END):
        raise DecodeError(f"there is no wire type {wire_type}")
    return 1 if wire_type == _GROUP else -1


def _varint(raw: bytes, at: int, end: int) -> tuple[int, int]:
    """The number at `at`, and its end.

    Raises:
        DecodeError: it does not end.
    """
    if at < end and raw[at] < 0x80:  # nearly all are so short
        return raw[at], at + 1
    value = 0
    for shift in range(0, _VARINT_BITS, 7):
        if at >= end:
            break
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DecodeError("a number does not end")


def _too_much(path: str, what: str, number: int | str, most: int) -> InvalidRequest:
    return InvalidRequest(path, f"{number} {what}, more than the {most} that are taken")
