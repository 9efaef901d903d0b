"""What is to be told to one router.

A router that keeps up is told of each token frame on its own; one that reads slowly is told of
several at once, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from detokenizer_svc.candidate import Candidate
from detokenizer_svc.request import Request
from protos import detokenizer_pb2

# Positions, alternatives counted too, after which a message is not filled further. This bounds its
# size, and how long the others wait while it is made.
_ENOUGH_POSITIONS = 16384


class DeltaSender:
    """Messages of one Watch stream."""

    def __init__(self, piece: Callable[[int], bytes]) -> None:
        """Spell log-probabilities' tokens with `piece`, the bytes of an id."""
        self._piece = piece
        self._said: deque[detokenizer_pb2.WatchResponse] = deque()
        self._moved: dict[Candidate, Request] = {}  # in the order they moved
        self._wake = asyncio.Event()

    def say(self, response: detokenizer_pb2.WatchResponse) -> None:
        """Send `response` after those said before, and before any text."""
        self._said.append(response)
        self._wake.set()

    def touch(self, request: Request, candidate: Candidate) -> None:
        """Send what `candidate` has unsent."""
        self._moved[candidate] = request
        self._wake.set()

    def forget(self, request: Request) -> None:
        """Send no more of `request`."""
        for candidate in request.candidates:
            self._moved.pop(candidate, None)

    async def take(self) -> detokenizer_pb2.WatchResponse:
        """The next message, once there is one."""
        while not (self._said or self._moved):
            self._wake.clear()
            await self._wake.wait()
        if self._said:
            return self._said.popleft()
        response = detokenizer_pb2.WatchResponse()
        self._fill(response.text)
        return response

    def _fill(self, frame: detokenizer_pb2.TextFrame) -> None:
        frame.SetInParent()
        positions = 0
        while self._moved and positions < _ENOUGH_POSITIONS:
            candidate, request = next(iter(self._moved.items()))
            delta = frame.deltas.add(
                handle=request.handle, attempt=request.attempt, candidate=candidate.index
            )
            positions += candidate.unsent.move_into(delta, self._piece)
            if candidate.unsent:
                return  # its next part goes into the next message
            del self._moved[candidate]
