"""Messages to one router.

A router that keeps up gets a message for each token frame; one that reads slowly gets several
frames in one message, and nothing waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

from chassis.mailbox import Mailbox
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
        self._moved: dict[Candidate, Request] = {}  # in the order they moved
        self._mailbox: Mailbox[detokenizer_pb2.WatchResponse] = Mailbox(self._take_text)
        self.take = self._mailbox.take

    def send(self, response: detokenizer_pb2.WatchResponse) -> None:
        """Send `response` after those said before, and before any text."""
        self._mailbox.put(response)

    def touch(self, request: Request, candidate: Candidate) -> None:
        """Send what `candidate` has unsent."""
        self._moved[candidate] = request
        self._mailbox.notify()

    def forget(self, request: Request) -> None:
        """Send no more of `request`."""
        for candidate in request.candidates:
            self._moved.pop(candidate, None)

    def _take_text(self) -> detokenizer_pb2.WatchResponse | None:
        if not self._moved:
            return None
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
