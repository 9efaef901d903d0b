"""A whole deployment in one thread and on a clock of its own: what a schedule does to it.

All that happens follows from what it is told: the same actions give the same run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from support.simulation.clients import Client
from support.simulation.lanes import Gate
from support.simulation.links import Link, Network
from support.simulation.loop import Process, SimulatedLoop
from support.simulation.model import DEADLY, Flavours
from support.simulation.router import SimulatedRouter
from support.simulation.services import KV_SLOTS, Conditions, SimulatedReplica
from support.simulation.streams import SERVER_NOTICES_S

STEP_S = 0.02
CRASHES_THAT_REFUSE = 3
REFUSED = "IMPLICATED_IN_CRASHES"
_MOST_ROUNDS = 2000
# Limits of the product so low that a few tokens reach them.
_SMALL = (
    ("detokenizer_svc.pending_delta.MOST_POSITIONS", 3),
    ("detokenizer_svc.watch_stream._ENOUGH_POSITIONS", 5),
    ("router.admission.demand.RESERVED_TOKENS", 2),
)


class Deployment:
    """A router before replicas, and the clients that it has."""

    def __init__(self, replicas: int, conditions: Conditions, *, reads_first: bool) -> None:
        """Begin with all services down; see `deployed`."""
        self.loop = SimulatedLoop()
        self.network = Network(self.loop)
        self.network.reads_before_end = reads_first
        self.clients: list[Client] = []
        self._crashes_before: dict[Client, int] = {}
        self._kills = 0
        self._flavours = conditions.flavours
        self.replicas = [SimulatedReplica(self.network, i, conditions) for i in range(replicas)]
        self.router = SimulatedRouter(self.network, self.replicas, conditions)

    # What happens to it.

    def submit(self, kind: str, seed: int) -> None:
        """Have a client send a request."""
        name = f"{len(self.clients)} {kind}"
        client = Client(self.router, self._flavours, name, kind, seed)
        self.clients.append(client)
        self._crashes_before[client] = self._crashes

    def step(self, replica: int, steps: int) -> None:
        """Let a model run so many steps, each of which takes time."""
        for _ in range(steps):
            self.replica(replica).step()
            self.loop.advance(STEP_S)

    def kill(self, service: str, replica: int) -> None:
        """Kill a process, if it is up."""
        killed = self.replica(replica).kill(service)
        self._kills += killed and service == "model"

    def stop(self, service: str, replica: int) -> None:
        """Have a process end in order; what the router does not hear of in order is a crash."""
        model = self.router.replicas[replica % len(self.replicas)].model
        ledger = model.ledger
        stopped = self.replica(replica).stop(service)
        unheard = ledger is None or model.ledger is ledger
        self._kills += stopped and unheard and service == "model"

    def pause(self, service: str, replica: int) -> None:
        """Stop a process where it is, if it is up."""
        process = self._process(service, replica)
        if process is not None and not process.paused:
            self.network.pause(process)

    def resume(self, service: str, replica: int) -> None:
        """Let it go on."""
        process = self._process(service, replica)
        if process is not None:
            self.network.resume(process)

    def replica(self, index: int) -> SimulatedReplica:
        """One of the replicas, whatever the index."""
        return self.replicas[index % len(self.replicas)]

    def link(self, link: str) -> Link:
        """A link by its kind and replica, such as `watch1`."""
        kind, index = link[:-1], int(link[-1])
        return self.network.links[f"{kind}{index % len(self.replicas)}"]

    def gate(self, link: str, way: str) -> Gate:
        """A direction of a link: `up` is towards the server."""
        gate: Gate = getattr(self.link(link), way)
        return gate

    def settle(self) -> None:
        """Run what can run now, and check that nothing is wrong so far."""
        self.loop.settle()
        self.check()

    def start_all(self) -> None:
        """Start what is down, and wait until all is quiet."""
        for replica in self.replicas:
            replica.start("model")
            replica.start("detokenizer")
        self._come_to_rest()
        self._tasks_at_rest = self._tasks()

    def heal(self, lost: tuple[str, int] | None = None) -> None:
        """Have everything work again, until all requests have ended and all is quiet.

        Args:
            lost: service and replica of the process that comes back only then.
        """
        self._mend()
        if lost is not None:
            self.kill(*lost)
        for client in self.clients:
            client.hurry()
        for _ in range(_MOST_ROUNDS):
            self._restart(lost)
            self._come_to_rest()
            self.check()
            if all(client.ended for client in self.clients):
                break
            if not any(replica.model is None for replica in self.replicas if lost is None):
                assert self.loop.advance_to_next_timer(), f"for ever: {self._unended()}"
        else:
            raise AssertionError(f"no end of {self._unended()}")
        self._restart(None)
        self._rest_long()

    def lose_router(self) -> None:
        """Kill the router for good, and have everything else work again until all is quiet."""
        self.router.kill()
        self._mend()
        self._restart(None)
        self._rest_long()

    # What must hold.

    def check(self) -> None:
        """Check what must hold at any time."""
        assert not self.loop.failures, self.loop.failures
        for client in self.clients:
            if client.wrong is not None:
                raise client.wrong
            if client.error is not None:
                self._check_refused(client, client.error.reason)

    def check_all_is_given_back(self) -> None:
        """Check that all requests have ended as they must, and nothing is left of any."""
        self.check()
        for client in self.clients:
            assert client.gone or client.error is not None or not client.name.endswith(DEADLY)
        for linked in self.router.replicas:
            assert linked.ready
            assert not linked.running
            assert linked.model.ledger is not None
            assert (len(linked.model.ledger), linked.model.ledger.committed) == (0, 0)
        assert not self.router.dispatcher.queued
        assert not self.router.arena.held_slabs
        assert self._tasks() == self._tasks_at_rest
        self.check_replicas_are_empty()

    def check_replicas_are_empty(self) -> None:
        """Check that no service behind the router knows of a request."""
        for replica in self.replicas:
            assert replica.model is not None
            assert replica.detokenizer is not None
            known = list(replica.model.engine._requests)
            assert not known, f"{replica.model_address} still knows {known}"
            assert replica.model.pool.free_slots == KV_SLOTS
            assert not len(replica.detokenizer.registry)

    def _check_refused(self, client: Client, reason: str) -> None:
        """Check that a request may have failed: there were enough crashes while it ran."""
        crashes = self._crashes - self._crashes_before[client]
        refused = reason == REFUSED and crashes >= CRASHES_THAT_REFUSE
        assert refused, f"{client.name} failed after {crashes} crashes: {client.error!r}"

    @property
    def _crashes(self) -> int:
        """How often models were killed, or died of a request."""
        return self._kills + sum(replica.deaths for replica in self.replicas)

    def _unended(self) -> list[str]:
        return [client.name for client in self.clients if not client.ended]

    def _mend(self) -> None:
        for link in self.network.links.values():
            link.mend()
        for index in range(len(self.replicas)):
            self.resume("model", index)
            self.resume("detokenizer", index)

    def _restart(self, lost: tuple[str, int] | None) -> None:
        for replica in self.replicas:
            for service in ("model", "detokenizer"):
                if (service, replica.index) != lost:
                    replica.start(service)

    def _come_to_rest(self) -> None:
        """Run all that can run without time passing, engines too."""
        self.loop.settle()
        for _ in range(_MOST_ROUNDS):
            stepped = [replica.step() for replica in self.replicas]
            if not (any(stepped) or self.loop.busy):
                return
            self.loop.settle()
        raise AssertionError("steps without end")

    def _rest_long(self) -> None:
        """Let pass what it takes until the last to notice has noticed."""
        self._come_to_rest()
        self.loop.advance(SERVER_NOTICES_S)
        self._come_to_rest()

    def _process(self, service: str, replica: int) -> Process | None:
        life = self.replica(replica).life(service)
        return None if life is None else life.process

    def _tasks(self) -> dict[str, list[str]]:
        """What goes on in each process, by name."""
        lives = [replica.life(name) for replica in self.replicas for name in _SERVICES]
        processes = [self.router.process, *(life.process for life in lives if life is not None)]
        return {
            process.name: sorted(
                getattr(task.get_coro(), "__qualname__", "") for task in self.loop.tasks(process)
            )
            for process in processes
        }

    def close(self) -> None:
        """End all."""
        self.router.close()
        for replica in self.replicas:
            replica.kill("model")
            replica.kill("detokenizer")


_SERVICES = ("model", "detokenizer")


@contextmanager
def deployed(
    *, replicas: int = 2, shared: bool = True, rounds: bool = False, reads_first: bool = False
) -> Iterator[Deployment]:
    """A deployment for the block; a bug that a service only logs fails the block too.

    Args:
        replicas: how many.
        shared: prompts and frames go through shared memory.
        rounds: models say other things each time a request is started.
        reads_first: see `Network.reads_before_end`.
    """
    conditions = Conditions(shared, Flavours(rounds=rounds))
    with ExitStack() as stack:
        for place, value in _SMALL:
            stack.enter_context(patch(place, value))
        bugs = stack.enter_context(_logged_bugs())
        deployment = Deployment(replicas, conditions, reads_first=reads_first)
        stack.enter_context(deployment.loop.running())
        stack.callback(deployment.close)
        deployment.start_all()
        yield deployment
        assert not bugs, "\n".join(bugs)


class _Bugs(logging.Handler):
    """Collects what was logged with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


@contextmanager
def _logged_bugs() -> Iterator[list[str]]:
    handler, root = _Bugs(), logging.getLogger()
    disabled = root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        yield handler.found
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)
