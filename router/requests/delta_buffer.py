"""Steps on their way to one client.

A client that keeps up is given each step on its own. One that reads too slowly finds the steps it
missed merged into one; nobody else waits for it, and what it holds up stays small.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from protos import detokenizer_pb2, generation_pb2

# So many steps are kept apart: a hiccup of the event loop is not a client that reads too slowly.
STEPS_APART = 4
_MOST_MERGED_TOKENS = 1024  # in one message, which must stay one that gRPC takes
MERGED = 1  # for a client that wants all at once


class _Part:
    """The next part of one candidate."""

    def __init__(self, index: int) -> None:
        self.candidate = generation_pb2.Candidate(index=index)
        self.text: list[str] = []  # joined once: assigning a message's string again leaks the old

    def finished(self) -> generation_pb2.Candidate:
        self.candidate.text = "".join(self.text)
        return self.candidate


class DeltaBuffer:
    """The parts of one request's candidates that its client has not been given yet."""

    def __init__(self, output: generation_pb2.OutputOptions, steps_apart: int) -> None:
        """Keep up to `steps_apart` steps apart; what comes after them is merged into the last."""
        self._token_ids = output.token_ids
        self._logprobs = output.HasField("logprobs")
        self._steps_apart = steps_apart
        self._steps: deque[tuple[int, dict[int, _Part]]] = deque()
        self._merged_tokens = 0  # of the last step
        self._wake = asyncio.Event()
        self._withheld = False
        self._closed = False
        self._error: BaseException | None = None

    @property
    def drained(self) -> bool:
        """Whether all has been taken, and nothing more will come."""
        return self._closed and not self._steps

    def add(self, delta: detokenizer_pb2.TextDelta, step: int) -> None:
        """Take in a delta of `step`; one that has nothing for the client is passed over."""
        told = self._token_ids or self._logprobs
        if not (delta.text or delta.finish_reason or (told and delta.token_ids)):
            return
        if self._begins(step):
            self._steps.append((step, {}))
            self._merged_tokens = 0
        self._merged_tokens += len(delta.token_ids)
        parts, index = self._steps[-1][1], delta.candidate
        part = parts.get(index)
        if part is None:
            part = parts[index] = _Part(index)
        self._add(delta, part)
        self._wake.set()

    def _begins(self, step: int) -> bool:
        """Tell whether deltas of `step` are kept apart from those that are there."""
        if not self._steps:
            return True
        if self._steps[-1][0] == step or self._steps_apart == MERGED:
            return False
        return len(self._steps) < self._steps_apart or self._merged_tokens >= _MOST_MERGED_TOKENS

    def _add(self, delta: detokenizer_pb2.TextDelta, part: _Part) -> None:
        candidate = part.candidate
        if text := delta.text:
            part.text.append(text)
        if self._token_ids:
            candidate.token_ids.extend(delta.token_ids)
        if self._logprobs:
            candidate.logprobs.extend(delta.logprobs)
        if reason := delta.finish_reason:
            candidate.finish_reason = reason
            matched = delta.WhichOneof("matched")
            if matched == "matched_stop":
                candidate.matched_stop = delta.matched_stop
            elif matched == "matched_token_id":
                candidate.matched_token_id = delta.matched_token_id

    def withhold(self, withheld: bool) -> None:
        """Give out nothing until told otherwise."""
        self._withheld = withheld
        self._wake.set()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._wake.set()

    def fail(self, error: BaseException) -> None:
        """Give out nothing more but `error`."""
        self._error = error
        self._wake.set()

    async def take(self) -> list[generation_pb2.Candidate]:
        """The next step's parts, in order of index, once there are some.

        Raises:
            ServiceError: the request has failed.
        """
        await self._until(lambda: bool(self._steps))
        _, parts = self._steps.popleft()
        return _in_order(parts)

    async def take_all(self) -> list[generation_pb2.Candidate]:
        """Whole candidates, in order of index, once all have ended; all steps must be merged.

        Raises:
            ServiceError: the request has failed.
        """
        await self._until(lambda: self._closed)
        (_, parts), *_ = self._steps
        self._steps.clear()
        return _in_order(parts)

    async def _until(self, there: Callable[[], bool]) -> None:
        while self._error is None and (self._withheld or not there()):
            self._wake.clear()
            await self._wake.wait()
        if self._error is not None:
            raise self._error


def _in_order(parts: dict[int, _Part]) -> list[generation_pb2.Candidate]:
    return [parts[index].finished() for index in sorted(parts)]
