"""Clients before the real dispatcher, of replicas whose steps take as long as a function says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from support.simulation.loop import Process, SimulatedLoop

from chassis.errors import DeadlineUnmeetable, Overloaded
from router.admission.demand import Demand, Ticket
from router.admission.ledger import Ledger
from router.admission.pace import Pace
from router.placement.attempt import release_place
from router.placement.dispatcher import Dispatcher
from router.placement.replica import Change
from router.requests.results import ModelInfo

MAX_QUEUE = 1024
KV_SLOTS = 20_000
MOST_ROWS = 64
PROMPT_TOKENS = 5
PROMPT_TOKEN_S = 0.0008
INFO = ModelInfo(name="m", context_length=4096, vocab_size=8)

StepTime = Callable[[float, int], float]


def on_two_cores(now: float, rows: int) -> float:
    """Seconds of a step of `rows`, as on a small machine."""
    return 0.008 + 0.00136 * rows


@dataclass
class Call:
    """One client's request, and what came of it."""

    tokens: int
    patience_s: float | None
    priority: int = 0
    stops_after: int | None = None
    outcome: str = ""
    ended_at: float = 0.0
    took_s: float = 0.0

    @property
    def length(self) -> int:
        return self.tokens if self.stops_after is None else self.stops_after


@dataclass
class Row:
    """A call on its replica."""

    call: Call
    over: asyncio.Future[None]
    made: int = 0


class PacedReplica:
    """A replica that takes as long for a step as `step_s` says."""

    ready = True
    stranded = False

    def __init__(self, loop: SimulatedLoop, dispatcher: Dispatcher, step_s: StepTime) -> None:
        pace = Pace()
        ledger = Ledger(KV_SLOTS, MOST_ROWS, pace)
        self.model: Any = SimpleNamespace(info=INFO, kv_slots=KV_SLOTS, ledger=ledger, pace=pace)
        self.rows: dict[Ticket, Row] = {}
        self._loop = loop
        self._dispatcher = dispatcher
        self._step_s = step_s
        self._stepping = False

    @property
    def running(self) -> int:
        return len(self.rows)

    def fail(self, ticket: Ticket, error: Exception) -> None:
        if ticket in self.rows and not self.rows[ticket].over.done():
            self.rows[ticket].over.set_exception(error)

    async def run(self, ticket: Ticket, call: Call) -> None:
        row = self.rows[ticket] = Row(call, self._loop.create_future())
        if not self._stepping:
            self._begin()
        try:
            await row.over
        finally:
            del self.rows[ticket]

    def _begin(self) -> None:
        self._stepping = bool(self.rows)
        if self.rows:
            fresh = sum(not row.made for row in self.rows.values())
            seconds = self._step_s(self._loop.time(), len(self.rows))
            seconds += fresh * PROMPT_TOKENS * PROMPT_TOKEN_S
            self._loop.call_later(seconds, self._end, list(self.rows.items()))

    def _end(self, ran: Sequence[tuple[Ticket, Row]]) -> None:
        ledger = self.model.ledger
        for ticket, row in ran:
            if self.rows.get(ticket) is not row or row.over.done():
                continue
            row.made += 1
            ledger.grow(ticket, 0, 1)
            if row.made >= row.call.length:
                ledger.finish(ticket, 0)
                row.over.set_result(None)
                ledger.leave(ticket)
        ledger.frame(self._loop.time())
        self._dispatcher.update()
        self._loop.call_soon(self._begin)


@dataclass
class World:
    """Clients before a dispatcher of paced replicas."""

    step_s: StepTime = on_two_cores
    replicas: int = 1
    loop: SimulatedLoop = field(default_factory=SimulatedLoop)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = Process("world")
        self.dispatcher = Dispatcher(MAX_QUEUE, 60.0, lambda: None)
        paced = [
            PacedReplica(self.loop, self.dispatcher, self.step_s) for _ in range(self.replicas)
        ]
        self.dispatcher.replicas = paced  # type: ignore[assignment]

    def at(self, when: float, call: Call) -> None:
        """Have `call` be made."""
        self.calls.append(call)
        self.loop.call_at(when, lambda: self.loop.start(self.process, self._make(call)))

    def play(self) -> None:
        """Let all calls come to their ends."""
        with self.loop.running():
            self.dispatcher.update(Change.MODEL)
            while not all(call.outcome for call in self.calls):
                assert self.loop.advance_to_next_timer()
            self.loop.kill(self.process)
        assert not self.loop.failures
        for replica in self.dispatcher.replicas:
            assert replica.model.ledger is not None
            assert not len(replica.model.ledger)
        assert not self.dispatcher.queued

    async def _make(self, call: Call) -> None:
        begin = self.loop.time()
        try:
            async with asyncio.timeout(call.patience_s):
                await self._run(call)
            call.outcome = "ok"
        except TimeoutError:
            call.outcome = "late"
        except DeadlineUnmeetable:
            call.outcome = "refused"
        except Overloaded:
            call.outcome = "full"
        call.ended_at = self.loop.time()
        call.took_s = call.ended_at - begin

    async def _run(self, call: Call) -> None:
        deadline = None if call.patience_s is None else self.loop.time() + call.patience_s
        demand = Demand(PROMPT_TOKENS, call.tokens, {0: 0}, may_stop=call.stops_after is not None)
        with self.dispatcher.arrival(call.priority, deadline) as ticket:
            self.dispatcher.expect(ticket, demand)
            placement = await self.dispatcher.place(ticket, lambda: demand)
            try:
                await placement.replica.run(ticket, call)  # type: ignore[arg-type]
            finally:
                release_place(placement.ledger, ticket)
                self.dispatcher.update()

    def outcomes(self) -> dict[str, int]:
        return {
            outcome: sum(call.outcome == outcome for call in self.calls)
            for outcome in sorted({call.outcome for call in self.calls})
        }

    def goodput(self, begin: float, end: float) -> float:
        """Tokens a second of calls that ended well in that time."""
        done = [c.length for c in self.calls if c.outcome == "ok" and begin <= c.ended_at < end]
        return sum(done) / (end - begin)


def capacity(step_s: StepTime = on_two_cores, rows: int = MOST_ROWS, now: float = 0.0) -> float:
    """Tokens a second of `rows` that run all the time."""
    return rows / step_s(now, rows)
