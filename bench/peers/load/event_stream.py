"""Counts the events of an HTTP event stream, decoding only its last.

The reader shares the machine with what it measures, so it looks at an event's bytes no more than it
must: where it ends.
"""

from __future__ import annotations

import json
from typing import Any

_END = b"\n\n"
_DONE = b"data: [DONE]"
_DATA = b"data:"


class EventStream:
    """Takes a response's bytes as they come."""

    def __init__(self) -> None:
        self.events = 0
        self._rest = b""
        self._last = b""

    def feed(self, received: bytes) -> int:
        """Take what has come; how many events with data it has completed."""
        *whole, self._rest = (self._rest + received).split(_END)
        data = [one for one in whole if one.startswith(_DATA) and one != _DONE]
        if data:
            self._last = data[-1]
            self.events += len(data)
        return len(data)

    def last(self) -> dict[str, Any]:
        """The last event, decoded; empty where there was none.

        Raises:
            ValueError: it is no JSON object.
        """
        if not self._last:
            return {}
        decoded = json.loads(self._last.removeprefix(_DATA))
        if not isinstance(decoded, dict):
            raise ValueError(f"an event that is no object: {decoded!r}")
        return decoded
