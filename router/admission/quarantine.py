"""Quarantine of requests that may crash the engine. Pure: no clock, no loop, no wire.

All rules are here (ADR 8). A crash counts against every request that the engine was running, once
the model has come back as another process. After `SUSPECT_AFTER` crashes a request is a suspect: it
starts among cleared requests only, and no other starts beside it until it is cleared, which it is
once it has passed its position at the crash. The only suspect of a crash is isolated: it starts
first and alone. A request is blamed, and refused, if it was alone in its third or a later crash, or
was running in eight; its crashes then no longer count against the others.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

SUSPECT_AFTER = 2
"""Crashes after which a request is a suspect."""
UNSEEN_TOKENS = 8
"""Tokens of a candidate that the engine may have drawn before it crashed, unseen by the router."""
MOST_ALONE = 3
"""Crashes after which a request is blamed, if it was alone in the last."""
MOST = 8
"""Crashes after which a request is blamed in any case, so that engines do not crash for ever."""

K = TypeVar("K", bound=Hashable)


class Standing(enum.Enum):
    """Suspicion against a request."""

    CLEAR = enum.auto()  # fewer crashes than make a suspect
    SUSPECT = enum.auto()  # not past its position at the last crash
    ISOLATED = enum.auto()  # a suspect that was the only one in the last crash
    CLEARED = enum.auto()  # a suspect that has passed its position at the last crash

    @property
    def suspected(self) -> bool:
        """True for a request that keeps others from starting beside it."""
        return self in (Standing.SUSPECT, Standing.ISOLATED)

    @property
    def goes_first(self) -> bool:
        """True for a request that starts before all others, whatever their priority."""
        return self is Standing.ISOLATED


class Progress(Protocol):
    """Output of one candidate, as far as it has come."""

    @property
    def finished(self) -> bool:
        """True once it has ended."""

    @property
    def ids(self) -> Sequence[int]:
        """Its token ids."""


class Crash:
    """A crash of an engine, or a lost connection that may have been one.

    Attributes:
        running: records of the requests that the engine was running.
        confirmed: true once it is known to be a crash.
    """

    def __init__(self, running: Sequence[CrashRecord]) -> None:
        self.running = running
        self.confirmed = False

    def withdraw(self) -> None:
        """Count it against no request any more."""
        for record in self.running:
            if self in record.crashes:
                record.crashes.remove(self)


class CrashRecord:
    """Crashes that count against one request.

    Attributes:
        crashes: those in which it was running, without those blamed on another request.
        blamed_for: number of crashes that are blamed on it; 0: none, so that it may run.
    """

    def __init__(self, candidates: Sequence[Progress]) -> None:
        """Begin without crashes; the positions of the request are read from `candidates`."""
        self.crashes: list[Crash] = []
        self.blamed_for = 0
        self._candidates = candidates
        self._lengths_at_crash: Sequence[int] = ()
        self._isolated = False

    @property
    def standing(self) -> Standing:
        """Suspicion against the request now."""
        if len(self.crashes) < SUSPECT_AFTER:
            return Standing.CLEAR
        if self.passed_crash:
            return Standing.CLEARED
        return Standing.ISOLATED if self._isolated else Standing.SUSPECT

    @property
    def passed_crash(self) -> bool:
        """True if every candidate is beyond its furthest possible position at the last crash."""
        return all(
            candidate.finished or len(candidate.ids) > length + UNSEEN_TOKENS
            for candidate, length in zip(self._candidates, self._lengths_at_crash, strict=True)
        )

    @property
    def blamable(self) -> bool:
        """True if confirmation of its crashes would have it blamed."""
        return _too_many(self.crashes)

    def count(self, crash: Crash, *, isolated: bool) -> None:
        """Count `crash` against the request, `isolated` if it was the only suspect."""
        self.crashes.append(crash)
        self._isolated = isolated
        self._lengths_at_crash = [len(candidate.ids) for candidate in self._candidates]

    def blame(self) -> None:
        """If its confirmed crashes are too many, blame them on it and clear the other requests.

        Crashes that are not confirmed yet may have been lost connections.
        """
        confirmed = [crash for crash in self.crashes if crash.confirmed]
        if _too_many(confirmed):
            self.blamed_for = len(confirmed)
            for crash in confirmed:
                crash.withdraw()


class EngineCrashes:
    """Crashes of one replica's engine."""

    def __init__(self) -> None:
        self._incarnation = 0
        self._last: Crash | None = None  # until the model has come back

    def lost(self, running: Iterable[CrashRecord], suspect: CrashRecord | None) -> None:
        """Count the loss of the model against the requests it was `running`."""
        self._last = Crash(tuple(running))
        for record in self._last.running:
            record.count(self._last, isolated=record is suspect)

    def back(self, incarnation: int) -> int:
        """Confirm or withdraw the last loss: the same incarnation as before did not crash.

        Returns:
            The number of requests that a confirmed crash counts against; 0: there was none.
        """
        crash, self._last = self._last, None
        same, self._incarnation = incarnation == self._incarnation, incarnation
        if crash is None:
            return 0
        if same:
            crash.withdraw()
            return 0
        crash.confirmed = True
        for record in crash.running:
            record.blame()
        return len(crash.running)

    def stays_away(self) -> None:
        """Confirm the last loss: a model that does not come back has crashed."""
        if self._last is not None:
            self._last.confirmed = True


class Isolation(Generic[K]):
    """Requests that run on one replica, and the suspect among them, if there is one."""

    def __init__(self) -> None:
        self._standings: dict[K, Standing] = {}
        self._suspect: K | None = None

    def may_start(self, standing: Standing) -> bool:
        """Tell whether a request may start beside those that run."""
        if not self._standings:
            return True
        if self._suspect is not None or standing is Standing.ISOLATED:
            return False
        return standing is not Standing.SUSPECT or all(
            other is Standing.CLEARED for other in self._standings.values()
        )

    def enter(self, key: K, standing: Standing) -> None:
        """Note that a request starts."""
        self._standings[key] = standing
        if standing.suspected:
            self._suspect = key

    def holds(self, key: K) -> bool:
        """Tell whether a request is the suspect."""
        return key is self._suspect

    def clear(self, key: K) -> None:
        """Let others start beside the suspect."""
        self._standings[key] = Standing.CLEARED
        self._suspect = None

    def leave(self, key: K) -> None:
        """Note that a request has ended."""
        self._standings.pop(key, None)
        if key is self._suspect:
            self._suspect = None


def _too_many(crashes: Sequence[Crash]) -> bool:
    return len(crashes) >= MOST or (len(crashes) >= MOST_ALONE and len(crashes[-1].running) == 1)
