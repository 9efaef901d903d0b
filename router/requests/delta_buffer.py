"""Steps of one request on their way to its client.

A client that keeps up is given each step on its own. One that reads too slowly gets the steps it
missed merged into one; nothing else waits for it, and the memory it takes stays small.
"""

from __future__ import annotations

from collections import deque

from chassis.mailbox import Mailbox
from router.requests.parameters import OutputOptions
from router.requests.results import CandidatePart, Delta

# So many steps are kept apart: a hiccup of the event loop is not a client that reads too slowly.
STEPS_APART = 4
_MOST_MERGED_TOKENS = 1024  # in one message, which must stay one that gRPC takes
MERGED = 1  # for a client that wants all at once


class DeltaBuffer:
    """The parts of one request's candidates that its client has not been given yet."""

    def __init__(self, output: OutputOptions, steps_apart: int) -> None:
        """Keep up to `steps_apart` steps apart; those after them are merged into the last.

        With `MERGED` the parts are whole candidates, given once all have ended.
        """
        self._token_ids = output.token_ids
        self._logprobs = output.logprobs is not None
        self._steps_apart = steps_apart
        self._steps: deque[tuple[int, dict[int, CandidatePart]]] = deque()
        self._merged_tokens = 0  # of the last step
        self._withheld = False
        self._closed = False
        self._error: BaseException | None = None
        self._mailbox: Mailbox[list[CandidatePart]] = Mailbox(self._next_step)
        self.take = self._mailbox.take
        """The next step's parts, in order of index, once there are some.

        Raises:
            ServiceError: the request has failed.
        """

    @property
    def drained(self) -> bool:
        """True once everything was taken and nothing more will come."""
        return self._closed and not self._steps

    def add(self, delta: Delta, step: int) -> None:
        """Take in a delta of `step`; one that has nothing for the client is passed over."""
        ids = delta.token_ids
        if not (delta.text or delta.finish or (ids and (self._token_ids or self._logprobs))):
            return
        if self._begins(step):
            self._steps.append((step, {}))
            self._merged_tokens = 0
        self._merged_tokens += len(ids)
        parts, index = self._steps[-1][1], delta.candidate
        part = parts.get(index)
        if part is None:
            part = parts[index] = CandidatePart(index)
        part.add(delta)
        if self._token_ids:
            part.token_ids += ids
        if self._logprobs and delta.logprobs:
            part.logprobs.append(delta.logprobs)
        self._mailbox.notify()

    def _begins(self, step: int) -> bool:
        """Tell whether deltas of `step` are kept apart from those that are there."""
        if not self._steps:
            return True
        if self._steps[-1][0] == step or self._steps_apart == MERGED:
            return False
        return len(self._steps) < self._steps_apart or self._merged_tokens >= _MOST_MERGED_TOKENS

    def withhold(self, withheld: bool) -> None:
        """Give out nothing while `withheld`."""
        self._withheld = withheld
        self._mailbox.notify()

    def close(self) -> None:
        """Note that nothing more will come."""
        self._closed = True
        self._mailbox.notify()

    def fail(self, error: BaseException) -> None:
        """Give out nothing more but `error`."""
        self._error = error
        self._mailbox.notify()

    def _next_step(self) -> list[CandidatePart] | None:
        if self._error is not None:
            raise self._error
        waits = self._withheld or (self._steps_apart == MERGED and not self._closed)
        if waits or not self._steps:
            return None
        _, parts = self._steps.popleft()
        if len(parts) == 1:
            return [*parts.values()]
        return [parts[index] for index in sorted(parts)]
