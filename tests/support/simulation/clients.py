"""Clients that check what they are given as it comes: nothing twice, nothing missing, nothing else.

Where the model does not round, an output is that of an undisturbed run. Where it does, each token
is what the model said after those before it, in one of the request's starts, and never in an
earlier one than the token before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from support.simulation.model import Flavours, Voice
from support.simulation.requests import (
    KINDS,
    expected_prompt,
    request_of,
    says,
    scored,
    told,
    undisturbed,
)
from support.simulation.router import SimulatedRouter

from chassis.errors import ServiceError
from protos import generation_pb2
from router.api.requests import generation_request
from router.api.responses import add_parts, prompt_of, usage_of
from router.requests.delta_buffer import STEPS_APART
from router.requests.request import RouterRequest
from router.requests.results import CandidatePart


class Client:
    """One request and who reads it.

    Attributes:
        name: the request's id.
        live: what the router knows of it, once it runs.
        error: what it was told instead of its end.
        wrong: the first thing that was not as expected.
        gone: it did not wait for the end.
    """

    def __init__(
        self, router: SimulatedRouter, flavours: Flavours, name: str, kind: str, seed: int
    ) -> None:
        self.name = name
        self.live: RouterRequest | None = None
        self.error: ServiceError | None = None
        self.wrong: AssertionError | None = None
        self.gone = False
        self._kind, self._seed = kind, seed
        self._whole = KINDS[kind].whole
        self._request = request_of(kind, seed)
        self._undisturbed = undisturbed(kind, seed)
        self._flavours = flavours.of(name)
        self._given = [generation_pb2.Candidate(index=i) for i in range(KINDS[kind].n)]
        self._runner = router.runner
        self._reads = asyncio.Semaphore(0)
        self._hurries = not KINDS[kind].slow
        self._task = router.start(self._run())

    @property
    def ended(self) -> bool:
        return self._task.done()

    def cancel(self) -> None:
        """Go away."""
        self.gone = self.gone or not self.ended
        self._task.cancel()

    def read(self, steps: int) -> None:
        """Read so many steps more, where it reads slowly."""
        for _ in range(steps):
            self._reads.release()

    def hurry(self) -> None:
        """Read slowly no more."""
        self._hurries = True
        self._reads.release()

    async def _run(self) -> None:
        steps_apart = 1 if self._whole else STEPS_APART
        try:
            request = generation_request(self._request)
            async with self._runner.run(request, self.name, steps_apart) as live:
                self.live = live
                if self._whole:
                    self._take(await live.buffer.take(), live)
                else:
                    await self._stream(live)
                await self._check_end(live)
        except ServiceError as error:
            self.error = error
        except AssertionError as error:
            self.wrong = error

    async def _stream(self, live: RouterRequest) -> None:
        first = True
        while not live.buffer.drained:
            if not self._hurries:
                await self._reads.acquire()
            self._take(await live.buffer.take(), live)
            if first:
                await self._check_prompt(live)
            first = False

    def _take(self, parts: list[CandidatePart], live: RouterRequest) -> None:
        told = generation_pb2.GenerateResponse()
        add_parts(told.candidates, parts)
        for part in told.candidates:
            given = self._given[part.index]
            assert not given.finish_reason, f"{self.name}: {part} after its end"
            text = given.text + part.text
            given.MergeFrom(part)
            given.text = text
            self._check_given(given, live.candidates[part.index].ids)

    def _check_given(self, given: generation_pb2.Candidate, known: Sequence[int]) -> None:
        """Check that a candidate's client was given what its ids come to, or a beginning of it."""
        if self._flavours == [0]:
            undisturbed = self._undisturbed[given.index]
            assert tuple(known) == undisturbed[: len(known)], f"{self.name}: {known}"
        wanted = told(self._kind, self._seed, given.index, tuple(known))
        if not given.finish_reason:
            assert len(known) <= self._request.stop.max_tokens
            wanted.text = wanted.text[: len(given.text)]
            del wanted.token_ids[len(given.token_ids) :]
            wanted.ClearField("finish_reason")
            wanted.ClearField("matched")
        if not self._request.output.token_ids:
            wanted.ClearField("token_ids")
        if self._request.output.HasField("logprobs"):
            assert [each.token_id for each in given.logprobs] == wanted.token_ids
            wanted.logprobs.extend(given.logprobs)  # checked at the end
        assert given == wanted, f"{self.name}: given\n{given}\ninstead of\n{wanted}"

    async def _check_prompt(self, live: RouterRequest) -> None:
        told, expected = await prompt_of(live), expected_prompt(self._request)
        assert told == expected, f"{self.name}: told of its prompt\n{told}\ninstead of\n{expected}"

    async def _check_end(self, live: RouterRequest) -> None:
        await self._check_prompt(live)
        for given, candidate in zip(self._given, live.candidates, strict=True):
            assert given.finish_reason, f"{self.name}: candidate {given.index} has no end"
            self._check_voices(given, candidate.ids)
        usage = generation_pb2.Usage(
            prompt_tokens=len(self._request.token_ids.ids),
            completion_tokens=sum(len(candidate.ids) for candidate in live.candidates),
        )
        assert usage_of(live) == usage, f"{self.name}: cost {usage_of(live)} instead of {usage}"

    def _check_voices(self, given: generation_pb2.Candidate, ids: Sequence[int]) -> None:
        """Check that each token is what a start of the request said, no earlier than the last."""
        flavours = iter(self._flavours)
        voice = Voice(self._request.sampling.seed, given.index, next(flavours, 0))
        for position in range(len(ids)):
            while not self._was_said(given, ids, position, voice):
                flavour = next(flavours, None)
                assert flavour is not None, (
                    f"{self.name}: no start of it said {ids[position]} at {position} of {ids}"
                )
                voice = Voice(voice.seed, voice.candidate, flavour)

    def _was_said(
        self, given: generation_pb2.Candidate, ids: Sequence[int], position: int, voice: Voice
    ) -> bool:
        before = ids[:position]
        if says(self._request, before, voice) != ids[position]:
            return False
        if not self._request.output.HasField("logprobs"):
            return True
        seen = [*self._request.token_ids.ids, *before]
        return given.logprobs[position] == scored(self._request, seen, ids[position], voice)
