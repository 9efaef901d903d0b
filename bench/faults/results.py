"""Result of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.faults.clients.answers import Answer, differences
from bench.faults.clients.calls import Outcome, longest_pause_s, longest_wait_s

SLACK_S = 2.0
"""Longest pause beyond the time in which a model loads."""


@dataclass
class Result:
    """Figures of one round; times are in seconds.

    Attributes:
        name: of the round.
        setting: where it was played.
        share: of the undisturbed run's messages, after which it the fault came.
        requests: sent.
        in_flight: sent and not over at the fault.
        running: of these, those that have a place on a replica, by the router's count.
        queued: of these, those that wait for one.
        unavailable: streams that had got messages and ended UNAVAILABLE; they were sent again.
        lost: requests that got no whole answer.
        changed: answers that were not those of the undisturbed run.
        messages: that all clients got.
        pause_s: the longest between two messages of a stream.
        wait_s: the longest for a stream's first message.
        load_s: what the model took to load, in this round where it did, else before.
        limit_s: what the pause should not exceed.
        took_s: the requests, all together.
        counters: by how much each rose.
        problems: each thing that was not as it should be, in words.
    """

    name: str
    setting: str
    share: float
    requests: int = 0
    in_flight: int = 0
    running: int = 0
    queued: int = 0
    unavailable: int = 0
    lost: int = 0
    changed: int = 0
    messages: int = 0
    pause_s: float = 0.0
    wait_s: float = 0.0
    load_s: float = 0.0
    limit_s: float = 0.0
    took_s: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """True if everything but the times was as promised."""
        return not (self.lost or self.changed or self.problems)

    @property
    def late(self) -> bool:
        """True if a stream paused longer than it should."""
        return self.pause_s > self.limit_s > 0

    def judge_times(self, outcomes: Sequence[Outcome]) -> None:
        """Take the pauses of `outcomes`."""
        self.pause_s = longest_pause_s(outcomes)
        self.wait_s = longest_wait_s(outcomes)

    def judge_answers(self, outcomes: Sequence[Outcome], expected: Mapping[str, Answer]) -> None:
        """Compare the answers of `outcomes` with those expected by the names of their cases.

        Args:
            outcomes: one a request.
            expected: empty: any answer will do.
        """
        self.requests = len(outcomes)
        for outcome in outcomes:
            name = outcome.case.name
            if outcome.answer is None:
                self.lost += 1
                self.problems.append(f"{name}: lost: {outcome.failure}")
            elif expected:
                found = differences(expected[name], outcome.answer)
                self.changed += bool(found)
                self.problems += [f"{name}: changed: {one}" for one in found]

    def judge_loads(self, hits: Sequence[float], loads: Sequence[float], usual_s: float) -> None:
        """Say how long a pause may be.

        Args:
            hits: moments at which the round took something away.
            loads: what models took to load after that.
            usual_s: what one takes, where none had to.
        """
        spread_s = hits[-1] - hits[0] if hits else 0.0
        self.load_s = max(loads, default=usual_s)
        self.limit_s = spread_s + self.load_s + SLACK_S
