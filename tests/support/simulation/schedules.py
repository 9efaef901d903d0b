"""What can happen to a deployment, as data: schedules that hypothesis draws, prints and shrinks."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from hypothesis import strategies as st
from support.simulation.deployment import Deployment, deployed
from support.simulation.requests import KINDS
from support.simulation.streams import UnderWay

_MOST_REPLICAS = 2
_SEEDS = 6


class Action(Protocol):
    """Something that happens."""

    def happen(self, to: Deployment) -> None:
        """Have it happen."""


@dataclass(frozen=True)
class Submit:
    """A client sends a request."""

    kind: str
    seed: int

    def happen(self, to: Deployment) -> None:
        to.submit(self.kind, self.seed)


@dataclass(frozen=True)
class Leave:
    """A client goes away."""

    client: int

    def happen(self, to: Deployment) -> None:
        if to.clients:
            to.clients[self.client % len(to.clients)].cancel()


@dataclass(frozen=True)
class Read:
    """All slow clients read so many steps."""

    steps: int

    def happen(self, to: Deployment) -> None:
        for client in to.clients:
            client.read(self.steps)


@dataclass(frozen=True)
class Step:
    """A model runs so many steps."""

    replica: int
    steps: int

    def happen(self, to: Deployment) -> None:
        to.step(self.replica, self.steps)


@dataclass(frozen=True)
class Hold:
    """A link lets nothing through one way, and nobody takes it for broken."""

    link: str
    way: str

    def happen(self, to: Deployment) -> None:
        to.gate(self.link, self.way).shut = True


@dataclass(frozen=True)
class Let:
    """A link that holds lets so many messages through."""

    link: str
    way: str
    messages: int

    def happen(self, to: Deployment) -> None:
        to.gate(self.link, self.way).let(self.messages)


@dataclass(frozen=True)
class Flow:
    """A link neither holds nor stalls any more."""

    link: str

    def happen(self, to: Deployment) -> None:
        to.link(self.link).mend()


@dataclass(frozen=True)
class Cut:
    """A link breaks and can be made again at once; what it holds arrives, is lost or late."""

    link: str
    under_way: str

    def happen(self, to: Deployment) -> None:
        to.link(self.link).cut(UnderWay[self.under_way.upper()])


@dataclass(frozen=True)
class Late:
    """What was late on a link arrives."""

    link: str

    def happen(self, to: Deployment) -> None:
        to.link(self.link).up.let_late()


@dataclass(frozen=True)
class Stall:
    """A link passes nothing, and nothing tells so."""

    link: str

    def happen(self, to: Deployment) -> None:
        to.link(self.link).stall()


@dataclass(frozen=True)
class Kill:
    """A process dies."""

    service: str
    replica: int

    def happen(self, to: Deployment) -> None:
        to.kill(self.service, self.replica)


@dataclass(frozen=True)
class Stop:
    """A process is told to end, and does."""

    service: str
    replica: int

    def happen(self, to: Deployment) -> None:
        to.stop(self.service, self.replica)


@dataclass(frozen=True)
class Start:
    """A process that has ended is started again."""

    service: str
    replica: int

    def happen(self, to: Deployment) -> None:
        to.replica(self.replica).start(self.service)


@dataclass(frozen=True)
class Pause:
    """A process stops where it is, as of SIGSTOP."""

    service: str
    replica: int

    def happen(self, to: Deployment) -> None:
        to.pause(self.service, self.replica)


@dataclass(frozen=True)
class Resume:
    """It goes on, as of SIGCONT."""

    service: str
    replica: int

    def happen(self, to: Deployment) -> None:
        to.resume(self.service, self.replica)


@dataclass(frozen=True)
class Wait:
    """Time passes."""

    seconds: float

    def happen(self, to: Deployment) -> None:
        to.loop.advance(self.seconds)


@dataclass(frozen=True)
class Schedule:
    """What there is, and what happens, one thing after the other.

    Attributes:
        replicas, shared, rounds, reads_first: see `deployed`.
        lost: service and replica of a process that does not come back in the end before all
            requests have ended; only where another replica is there.
        router_dies: in the end the router does.
    """

    replicas: int = 1
    shared: bool = False
    rounds: bool = False
    reads_first: bool = False
    lost: tuple[str, int] | None = None
    router_dies: bool = False
    actions: list[Action] = field(default_factory=list)

    def run(self) -> None:
        """Have it happen, then have all work again, and check that no client noticed.

        Raises:
            AssertionError: one did, or something is left of a request.
        """
        with deployed(
            replicas=self.replicas,
            shared=self.shared,
            rounds=self.rounds,
            reads_first=self.reads_first,
        ) as deployment:
            for action in self.actions:
                action.happen(deployment)
                deployment.settle()
            if self.router_dies:
                deployment.lose_router()
                deployment.check_replicas_are_empty()
            else:
                deployment.heal(self.lost if self.replicas > 1 else None)
                deployment.check_all_is_given_back()


_replicas = st.integers(0, _MOST_REPLICAS - 1)
_services = st.sampled_from(["model", "detokenizer"])
_links = st.builds(
    lambda kind, replica: f"{kind}{replica}", st.sampled_from(["run", "watch", "frames"]), _replicas
)
_ways = st.sampled_from(["up", "down"])
_fates = st.sampled_from(["arrives", "lost", "late", "late"])
_submits = st.builds(Submit, st.sampled_from(sorted(KINDS)), st.integers(0, _SEEDS - 1))
_steps = st.builds(Step, _replicas, st.integers(1, 6))
_moments: st.SearchStrategy[Action] = st.one_of(
    _submits,
    _steps,
    _steps,
    _steps,
    st.builds(Wait, st.sampled_from([0.06, 0.06, 0.5, 3.1, 5.5, 21.0])),
    st.builds(Read, st.integers(1, 3)),
    st.builds(Leave, st.integers(0, 3)),
    st.builds(Let, _links, _ways, st.integers(1, 3)),
    st.builds(Cut, _links, _fates),
    st.builds(Cut, _links, _fates),
    st.builds(Late, _links),
    st.builds(Kill, _services, _replicas),
)


@st.composite
def _spans(draw: st.DrawFn, depth: int) -> list[Action]:
    """Something that lasts, and what happens meanwhile."""
    kind = draw(st.sampled_from([Hold, Hold, Stall, Kill, Stop, Pause]))
    begin: Action
    end: Action
    if kind in (Hold, Stall):
        link = draw(_links)
        begin = Stall(link) if kind is Stall else Hold(link, draw(_ways))
        end = Flow(link)
    else:
        process = (draw(_services), draw(_replicas))
        begin = kind(*process)
        end = Resume(*process) if kind is Pause else Start(*process)
    return [begin, *draw(_episodes(depth)), end]


def _episodes(depth: int) -> st.SearchStrategy[list[Action]]:
    """Some moments and, where `depth` is left, spans."""
    single = st.builds(lambda action: [action], _moments)
    episode = single if depth == 0 else single | _spans(depth - 1)
    return st.lists(episode, max_size=6).map(lambda parts: list(chain.from_iterable(parts)))


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Schedules: some requests first, then whatever happens."""
    return Schedule(
        replicas=draw(st.integers(1, _MOST_REPLICAS)),
        shared=draw(st.booleans()),
        rounds=draw(st.booleans()),
        reads_first=draw(st.booleans()),
        lost=draw(st.none() | st.tuples(_services, _replicas)),
        router_dies=draw(st.integers(0, 9)) == 9,
        actions=[
            *draw(st.lists(_submits, max_size=4)),
            *draw(_episodes(2)),
            *draw(_episodes(2)),  # one list alone would be short as a rule, or never be
        ],
    )
