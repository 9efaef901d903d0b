"""Registered requests, by handle.

Rows of an unknown handle, or of another attempt than the current, are dropped. A handle belongs to
its last registration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from detokenizer_svc.candidate import Outcome
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.pending_delta import Alternatives
from detokenizer_svc.request import Audience, Request
from protos import detokenizer_pb2, model_pb2
from protos.token_frame import PROMPT, TokenFrame

Replays = list[model_pb2.Replay]


class Registry:
    """The requests of all routers.

    Attributes:
        fenced_rows: rows dropped so far because nobody wants them.
    """

    def __init__(self, spelling: Vocabulary) -> None:
        self._spelling = spelling
        self._requests: dict[int, Request] = {}
        self.fenced_rows = 0

    def __len__(self) -> int:
        return len(self._requests)

    def register(self, register: detokenizer_pb2.Register, audience: Audience) -> Replays:
        """Register a request, or a later attempt at one; return the replays to request.

        Rows are asked for where there may have been some: where the request was known, or where
        the router says what was delivered, be it nothing. An older attempt changes nothing.
        """
        before = self._requests.get(register.handle)
        if before is not None:
            if register.attempt < before.attempt:
                return []
            before.audience.forget(before)
        request = Request(register, self._spelling, audience)
        self._requests[register.handle] = request
        for candidate in request.candidates:
            if candidate.unsent:
                audience.touch(request, candidate)
        if before is None and not register.delivered:
            return []
        return list(_replays([request]))

    def forget(self, handle: int, audience: Audience) -> None:
        """Drop a request that `audience` registered."""
        request = self._requests.get(handle)
        if request is not None and request.audience is audience:
            audience.forget(request)
            del self._requests[handle]

    def forget_all(self, audience: Audience) -> None:
        """Drop all that `audience` registered."""
        for request in list(self._requests.values()):
            self.forget(request.handle, audience)

    def process(self, frame: TokenFrame) -> Replays:
        """Process a frame, which may be overwritten afterwards; return the replays to request."""
        replays: Replays = []
        # Lists of plain numbers: a numpy scalar for each field of each row would cost far more.
        alternatives: list[tuple[int, float]] = frame.alternatives.tolist()
        start = 0
        for row in frame.rows.tolist():
            end = start + row[7]
            replay = self._take_row(row, alternatives[start:end] if end > start else ())
            if replay is not None:
                replays.append(replay)
            start = end
        return replays

    def missing(self, gap: model_pb2.Gap) -> Replays:
        """Replays to request from the model for rows that it left out."""
        replays: Replays = []
        for missing in gap.requests:
            request = self._wanted(missing.handle, missing.attempt, missing.candidate)
            if request is not None:
                replay = request.replay(request.candidates[missing.candidate])
                replays += [] if replay is None else [replay]
        return replays

    def all_missing(self) -> Replays:
        """Replays to request from the model when rows of any request may be lost."""
        return list(_replays(self._requests.values()))

    def _wanted(self, handle: int, attempt: int, index: int) -> Request | None:
        request = self._requests.get(handle)
        if request is None or request.attempt != attempt or index >= len(request.candidates):
            return None
        return request

    def _take_row(
        self,
        row: tuple[int, int, int, int, float, int, int, int],
        top: Alternatives,
    ) -> model_pb2.Replay | None:
        handle, attempt, position, token_id, logprob, index, flags, _ = row
        request = self._wanted(handle, attempt, index)
        if request is None:
            self.fenced_rows += 1
            return None
        candidate = request.candidates[index]
        if flags & PROMPT:
            outcome = request.take_prompt(candidate, position, token_id, logprob, top)
        else:
            outcome = candidate.add_row(position, token_id, flags, logprob, top)
        if outcome is Outcome.TAKEN:
            request.audience.touch(request, candidate)
        return request.replay(candidate) if outcome is Outcome.MISSING else None


def _replays(requests: Iterable[Request]) -> Iterator[model_pb2.Replay]:
    for request in requests:
        for candidate in request.candidates:
            replay = request.replay(candidate)
            if replay is not None:
                yield replay
