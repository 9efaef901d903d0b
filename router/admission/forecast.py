"""Forecast of the requests that will meet their deadlines. Pure: no clock, no loop, no wire.

A replica is foreseen as rows that each make a token every so often, the more rows the slower. The
line is played through on it, in order: who cannot end in time is refused now, and takes no time
from those behind. What starts leaves those that run, and have a deadline, the speed that they need.
"""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from router.admission.demand import Demand, Ticket, Work
from router.admission.ledger import Ledger
from router.admission.pace import Pace

SLACK_S = 0.1
"""Seconds that a request and its answer are thought to be on their ways."""
_BLIND_ROWS = 8  # may run before anything was measured
_WORTH_WAITING = 0.05  # for others to end so that it runs faster: part of its time
_DOUBT = 2.0  # an idle replica may be so much faster than it was
_LATE_MARGIN = 0.05  # what runs is late where less of its time would be left over
_MOST_AHEAD_S = 60.0  # a later deadline is judged when it is nearer: speed was measured for seconds
_LAST_S = 0.3  # with no more left, it is not ended for the others
_ENDED_AT_ONCE = 8  # one of so many that are late is ended at each look


@dataclass(frozen=True, slots=True)
class Late:
    """A request that cannot end in time.

    Attributes:
        needed_s: seconds until it would surely have ended.
        left_s: seconds until it must have.
        wait_s: seconds until what was before it has ended; None: it was not in line.
    """

    ticket: Ticket
    needed_s: float
    left_s: float
    wait_s: float | None = None


class Outlook:
    """Room that the requests on a replica leave for others, as it was at some moment."""

    def __init__(self, ledger: Ledger, now: float) -> None:
        self.ledger = ledger
        self._now = now
        self._pace = ledger.pace
        self._work = list(ledger.work())
        self._prompts = sum(work.prompt_tokens for _, work in self._work)
        prompts_s = self._pace.prompt_s * self._prompts
        self._bearable_s = min(
            (
                (work.deadline - now - prompts_s) / max(work.tokens, 1.0)
                for _, work in self._work
                if work.deadline is not None
            ),
            default=float("inf"),
        )

    def allows(self, ticket: Ticket, now: float) -> bool:
        """Tell whether `ticket` may start now.

        It must end in time itself, and leave those that run the speed they need, unless the
        replica would be far from its best rate with so few rows.
        """
        work = work_of(ticket.asked, judged(ticket.deadline, now), self._pace)
        if not len(self.ledger):
            return work.deadline is None or ticket.admitted or alone_in_time(work, self._pace, now)
        rows = self.ledger.sequences + work.rows
        if not self._pace.known:
            return work.deadline is None or rows <= _BLIND_ROWS
        token_s = self._pace.token_s(rows)
        if token_s > self._bearable_s and rows > self._pace.enough_rows:
            return False
        if work.deadline is None or ticket.admitted:
            return True
        prompts_s = self._pace.prompt_s * (self._prompts + work.prompt_tokens)
        needed_s = prompts_s + work.likely_tokens * token_s
        return in_time(needed_s, work.deadline - now, self._pace)

    def start(self, ticket: Ticket) -> None:
        """Take note that `ticket` was started."""
        work = work_of(ticket.asked, ticket.deadline, self._pace)
        self._prompts += work.prompt_tokens
        if work.deadline is not None:
            left_s = work.deadline - self._now - self._pace.prompt_s * self._prompts
            self._bearable_s = min(self._bearable_s, left_s / max(work.tokens, 1.0))

    def late(self, now: float) -> Iterator[Late]:
        """Name those to end early: the longest of those that will miss their deadlines."""
        pace, late = self._pace, []
        time, made = now + pace.prompt_s * self._prompts, 0.0
        rows = sum(work.rows for _, work in self._work)
        for ticket, work in sorted(self._work, key=lambda pair: (pair[1].tokens, pair[0].order)):
            time += (work.tokens - made) * pace.least_token_s(rows)
            made = work.tokens
            rows -= work.rows
            ends_at = now + (time - now) * (1 + _LATE_MARGIN) + SLACK_S
            deadline = judged(work.deadline, now)
            if deadline is not None and now + _LAST_S < deadline < ends_at:
                late.append(Late(ticket, time - now, deadline - now))
        if len(late) > 1:
            yield from late[-math.ceil(len(late) / _ENDED_AT_ONCE) :]


class Lane:
    """A replica as it will be once it has gone on for a while."""

    def __init__(self, ledger: Ledger, now: float) -> None:
        works = [work for _, work in ledger.work()]
        self.pace = ledger.pace
        self.time = now + self.pace.prompt_s * sum(work.prompt_tokens for work in works)
        self._made = 0.0  # tokens by each row since `now`
        self._free_rows = ledger.max_sequences - ledger.sequences
        self._free_slots = ledger.kv_slots - ledger.committed
        self.rows = sum(work.rows for work in works)
        self._ends = [(work.tokens, i, work.rows, work.slots) for i, work in enumerate(works)]
        heapq.heapify(self._ends)
        self._entered = len(works)

    def copy(self) -> Lane:
        """The same, to be played on."""
        other = copy.copy(self)
        other._ends = self._ends.copy()
        return other

    def fits(self, work: Work) -> bool:
        """Tell whether there is room for a request."""
        return not self._ends or (work.rows <= self._free_rows and work.slots <= self._free_slots)

    def needed_s(self, work: Work, beside: int) -> float:
        """Seconds that a request takes with `beside` rows beside it."""
        prompts_s = self.pace.prompt_s * work.prompt_tokens
        return prompts_s + work.likely_tokens * self.pace.least_token_s(beside + work.rows)

    def ends_in_time(self, work: Work) -> bool:
        """Tell whether a request that starts here ends in time."""
        if work.deadline is None:
            return True
        if not self._entered:
            return alone_in_time(work, self.pace, self.time)
        return in_time(self.needed_s(work, self.rows), work.deadline - self.time, self.pace)

    def start(self, work: Work) -> None:
        """Start a request."""
        self.time += self.pace.prompt_s * work.prompt_tokens
        self._entered += 1
        end = (self._made + work.tokens, self._entered, work.rows, work.slots)
        heapq.heappush(self._ends, end)
        self._free_rows -= work.rows
        self._free_slots -= work.slots
        self.rows += work.rows

    @property
    def next_end(self) -> float:
        """End of the request that ends next; infinite where there is none."""
        if not self._ends:
            return float("inf")
        return self.time + (self._ends[0][0] - self._made) * self.pace.least_token_s(self.rows)

    def advance(self) -> None:
        """Go on to the next end."""
        self.time = self.next_end
        self._made, _, rows, slots = heapq.heappop(self._ends)
        self._free_rows += rows
        self._free_slots += slots
        self.rows -= rows


class Forecast:
    """The line played through on the replicas, as of a moment.

    Attributes:
        refused: those in line that cannot end in time.
    """

    def __init__(self, ledgers: Iterable[Ledger], line: Sequence[Ticket], now: float) -> None:
        """Play it through.

        Args:
            ledgers: of the replicas that take requests.
            line: in order.
            now: in seconds of the clock of deadlines.
        """
        self.refused: list[Late] = []
        self._now = now
        self._lanes = [Lane(ledger, now) for ledger in ledgers]
        self._last = line[-1].priority if line else None
        for ticket in line if self._knows else ():
            work = self._work(ticket.asked, ticket.deadline)
            if not self._start(work, surely=ticket.admitted):
                self.refused.append(self._late(ticket, work))

    def refuses(self, ticket: Ticket, demand: Demand) -> Late | None:
        """Refuse a request that came since, if it is too late even with `demand` only.

        None: it may be in time. One that goes before others is never refused here.
        """
        before_others = self._last is not None and ticket.priority < self._last
        if before_others or not self._knows:
            return None
        work = self._work(demand, ticket.deadline)
        if work.deadline is None or _played(self._lanes, work, surely=False):
            return None
        return self._late(ticket, work)

    @property
    def _knows(self) -> bool:
        return bool(self._lanes) and all(lane.pace.known for lane in self._lanes)

    def _work(self, demand: Demand, deadline: float | None) -> Work:
        return work_of(demand, judged(deadline, self._now), self._lanes[0].pace)

    def _start(self, work: Work, *, surely: bool) -> bool:
        played = _played(self._lanes, work, surely=surely)
        if played is None:
            return False
        self._lanes, lane = played
        lane.start(work)
        return True

    def _late(self, ticket: Ticket, work: Work) -> Late:
        assert work.deadline is not None
        wait_s = min(*(lane.next_end for lane in self._lanes), work.deadline) - self._now
        left_s = work.deadline - self._now
        needed_s = wait_s + min(
            _with_margin(lane.needed_s(work, lane.rows), lane.pace) for lane in self._lanes
        )
        # With no room for a while it waits for more than the next end.
        return Late(ticket, max(needed_s, left_s), left_s, wait_s)


def _played(lanes: list[Lane], work: Work, *, surely: bool) -> tuple[list[Lane], Lane] | None:
    """The lanes when a request can start, and the one that it can start on; None: on none in time.

    Args:
        lanes: now; they are left as they are.
        work: of the request.
        surely: whether it starts in any case.
    """
    latest: float | None = None
    played = lanes
    while True:
        fitting = [lane for lane in played if lane.fits(work)]
        able = fitting if surely else [lane for lane in fitting if lane.ends_in_time(work)]
        if able:
            return played, min(able, key=lambda lane: lane.rows)
        first = min(range(len(played)), key=lambda i: played[i].next_end)
        if work.deadline is not None and not surely:
            if latest is None:
                latest = work.deadline - min(lane.needed_s(work, 0) for lane in lanes)
            if fitting:  # for others to end is all that it waits for
                soon_s = _WORTH_WAITING * (work.deadline - fitting[0].time)
                latest = min(latest, fitting[0].time + soon_s)
            if played[first].next_end > latest:
                return None
        if played is lanes:
            played = [lane.copy() for lane in lanes]
        played[first].advance()


def judged(deadline: float | None, now: float) -> float | None:
    """`deadline`, where it is near enough for a forecast; None: it is judged later, if ever."""
    return None if deadline is None or deadline > now + _MOST_AHEAD_S else deadline


def alone_in_time(work: Work, pace: Pace, now: float) -> bool:
    """Tell whether a request may end in time on a replica that runs nothing else.

    As nothing else is there to show how fast it is now, the forecast must be far from the deadline.
    """
    needed_s = work.tokens * pace.least_token_s(work.rows)
    return work.deadline is None or needed_s <= _DOUBT * (work.deadline - now)


def in_time(needed_s: float, left_s: float, pace: Pace) -> bool:
    """Tell whether work that is forecast to take `needed_s` is likely to end within `left_s`."""
    return _with_margin(needed_s, pace) <= left_s


def _with_margin(needed_s: float, pace: Pace) -> float:
    """Seconds within which work that is forecast to take `needed_s` is likely to end."""
    return needed_s * (1 + pace.margin) + SLACK_S


def work_of(demand: Demand, deadline: float | None, pace: Pace) -> Work:
    """The computation of a request that has not started."""
    outputs = demand.outputs
    left = demand.max_tokens - min(outputs.values(), default=demand.max_tokens)
    return Work(
        tokens=pace.outputs(left, may_stop=demand.may_stop),
        likely_tokens=pace.likely_outputs(left, may_stop=demand.may_stop),
        rows=len(outputs),
        slots=demand.slots,
        prompt_tokens=demand.uncomputed,
        deadline=deadline,
    )
