"""One request as a client sends it: what came back, and when."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from bench.faults.clients.answers import Answer, Disorder, Joiner, of_completion
from bench.faults.clients.progress import Progress
from bench.faults.clients.workload import Case
from triptych.client import AsyncClient, TriptychError, Unavailable


@dataclass
class Outcome:
    """Course of a request; times are `time.monotonic`.

    Attributes:
        case: what was asked.
        sent_s: when the client sent it.
        messages_s: when each message of a stream came; of a unary call, when the answer came.
        ended_s: when it was over; None while it goes on.
        answer: what came, where all of it did.
        failure: why not, in words; empty where it did.
        unavailable: it had got messages and then ended UNAVAILABLE, as the contract allows where a
            router died.
    """

    case: Case
    sent_s: float
    messages_s: list[float] = field(default_factory=list)
    ended_s: float | None = None
    answer: Answer | None = None
    failure: str = ""
    unavailable: bool = False


async def carry_out(
    outcome: Outcome, client: AsyncClient, injected: asyncio.Event, progress: Progress
) -> None:
    """Send the request of `outcome` and fill that in.

    Args:
        outcome: just made.
        client: sends it.
        injected: set at the fault; a client that reads late goes on then.
        progress: of the round.
    """
    progress.begin()
    try:
        outcome.answer = await _answer(outcome, client, injected, progress)
    except Unavailable as error:
        outcome.unavailable = bool(outcome.messages_s)
        outcome.failure = _words(error)
    except (TriptychError, Disorder) as error:
        outcome.failure = _words(error)
    finally:
        outcome.ended_s = time.monotonic()
        progress.end()


async def _answer(
    outcome: Outcome, client: AsyncClient, injected: asyncio.Event, progress: Progress
) -> Answer:
    case = outcome.case
    if not case.streamed:
        answer = of_completion(await client.generate(case.prompt, case.options))
        outcome.messages_s.append(time.monotonic())
        return answer
    joiner = Joiner()
    async with aclosing(client.stream(case.prompt, case.options)) as deltas:
        async for delta in deltas:
            outcome.messages_s.append(time.monotonic())
            progress.advance()
            joiner.add(delta)
            if case.read_late:
                await injected.wait()
    return joiner.answer()


def _words(error: Exception) -> str:
    if not isinstance(error, TriptychError):
        return str(error)
    return " ".join(filter(None, (error.status.name, error.reason, error.message)))


def longest_pause_s(outcomes: Sequence[Outcome]) -> float:
    """The longest time between two messages of a stream that its client reads as they come."""
    return max(
        (
            later - earlier
            for one in outcomes
            if one.case.streamed and not one.case.read_late
            for earlier, later in itertools.pairwise(one.messages_s)
        ),
        default=0.0,
    )


def longest_wait_s(outcomes: Sequence[Outcome]) -> float:
    """The longest time from sending a stream's request to its first message."""
    return max(
        (
            one.messages_s[0] - one.sent_s
            for one in outcomes
            if one.case.streamed and one.messages_s
        ),
        default=0.0,
    )
