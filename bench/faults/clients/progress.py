"""Progress of a round, by the messages that its clients have received.

A fault is timed by it and not by a clock, so that it falls into the midst of things on a machine of
any speed. Who waits never waits for ever: with nothing left in flight, all waits end.
"""

from __future__ import annotations

import asyncio


class Progress:
    """Counts messages; lets others wait for so many."""

    def __init__(self) -> None:
        self.messages = 0
        self._in_flight = 0
        self._waits: list[tuple[int, asyncio.Event]] = []

    def begin(self) -> None:
        """Note a request sent."""
        self._in_flight += 1

    def advance(self) -> None:
        """Note a message."""
        self.messages += 1
        self._release(self.messages)

    def end(self) -> None:
        """Note that a request is over."""
        self._in_flight -= 1
        if not self._in_flight:
            self._release(None)

    async def reached(self, messages: int) -> None:
        """Wait for so many messages, or for the end of all requests there are."""
        event = asyncio.Event()
        self._waits.append((messages, event))
        self._release(self.messages)
        await event.wait()

    def _release(self, messages: int | None) -> None:
        """Let those go on who wait for so many; None: all."""
        for wait in list(self._waits):
            if messages is None or wait[0] <= messages:
                self._waits.remove(wait)
                wait[1].set()
