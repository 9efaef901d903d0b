"""The real services in simulated processes: all their own code, but for tensors and sockets.

They are made small, so that the token ring overflows, KV slots run out and answers are cut.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from functools import cache

from prometheus_client import CollectorRegistry
from support.simulation.calls import MemoryChannel
from support.simulation.links import Network
from support.simulation.loop import Process
from support.simulation.model import Died, Flavours, PlainRunner, eos_id, spelling
from support.simulation.streams import MemoryServer

from detokenizer_svc.model_link import LinkMetrics, LinkState, ModelLink
from detokenizer_svc.registry import Registry
from detokenizer_svc.servicer import DetokenizerServicer
from model_svc.assembly import LoadedModel
from model_svc.engine.loop import Engine
from model_svc.metrics import ModelMetrics
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.slot_pool import SlotPool
from model_svc.serving.publisher import ReportPublisher
from model_svc.serving.servicer import ModelServicer, Rings
from model_svc.serving.submission import Limits
from protos import detokenizer_pb2_grpc, generation_pb2, model_pb2, model_pb2_grpc

KV_SLOTS = 32
CONTEXT = 32
ROWS = 4
BATCH_TOKENS = 8
RING_BYTES = 400  # room for a few frames


@dataclass(frozen=True, slots=True)
class Counted:
    """What the services count, over all runs."""

    model: ModelMetrics
    link: LinkMetrics


@cache
def counted() -> Counted:
    registry = CollectorRegistry()
    return Counted(ModelMetrics(registry, KV_SLOTS), LinkMetrics(registry, int))


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which the services run.

    Attributes:
        shared: prompts and frames go through shared memory.
        flavours: of what models say.
    """

    shared: bool
    flavours: Flavours


class SimulatedModel:
    """One life of a model process; its engine steps when it is told to."""

    def __init__(
        self, network: Network, address: str, incarnation: int, conditions: Conditions
    ) -> None:
        self.process = Process(address)
        self.stopping = asyncio.Event()
        self.pool = SlotPool(KV_SLOTS)
        self._network = network
        self._rings = Rings(RING_BYTES if conditions.shared else 0)
        scheduler = Scheduler(self.pool, rows=ROWS, context=CONTEXT, max_batch_tokens=BATCH_TOKENS)
        runner = PlainRunner(
            KV_SLOTS,
            ROWS,
            CONTEXT,
            conditions.flavours,
            lambda handle: self.engine._requests[handle],
        )
        metrics = counted().model
        self._hub = ReportPublisher(metrics, network.loop.call_soon)
        self.engine = Engine(runner, scheduler, self.pool, self._hub.deliver, metrics)
        limits = Limits(len(spelling()), min(CONTEXT, KV_SLOTS), frozenset({eos_id()}))
        model = LoadedModel(self.engine, self._hub, metrics, limits, _welcome(incarnation))
        servicer = ModelServicer(self._rings, RING_BYTES, self.stopping)
        servicer.serve(model)
        server = MemoryServer(self.process)
        model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
        network.serve(address, server)

    def step(self) -> bool:
        """Run a step, if there is one to run; answer whether there was."""
        if self.process.paused:
            return False
        return self._network.loop.call(self.process, self.engine.advance)

    def kill(self) -> None:
        """End it at once."""
        self._network.kill(self.process)
        self._rings.close()


def _welcome(incarnation: int) -> model_pb2.Welcome:
    return model_pb2.Welcome(
        model=generation_pb2.Model(
            name="plain", context_length=CONTEXT, vocab_size=len(spelling())
        ),
        kv_slots=KV_SLOTS,
        max_sequences=ROWS,
        max_batch_tokens=BATCH_TOKENS,
        eos_token_ids=[eos_id()],
        incarnation=incarnation,
    )


class SimulatedDetokenizer:
    """One life of a detokenizer process."""

    def __init__(self, network: Network, address: str, model: str, link_name: str) -> None:
        self.process = Process(address)
        self.stopping = asyncio.Event()
        self._network = network
        self.registry = Registry(spelling())
        servicer = DetokenizerServicer(spelling(), self.registry, len(spelling()), self.stopping)

        async def pass_on(state: LinkState) -> None:
            servicer.tell(state)

        channel = MemoryChannel(network.link(link_name, self.process, model))
        link = ModelLink(channel, model, self.registry, counted().link, pass_on)
        servicer.attach(link)
        server = MemoryServer(self.process)
        detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(servicer, server)
        network.loop.start(self.process, link.run())
        network.serve(address, server)

    def kill(self) -> None:
        """End it at once."""
        self._network.kill(self.process)


class SimulatedReplica:
    """A model and its detokenizer, whichever lives they are in; None while one is down.

    Attributes:
        deaths: how often the model died of a request.
    """

    def __init__(self, network: Network, index: int, conditions: Conditions) -> None:
        self.index = index
        self.deaths = 0
        self.model_address = f"model{index}"
        self.detokenizer_address = f"detokenizer{index}"
        self.model: SimulatedModel | None = None
        self.detokenizer: SimulatedDetokenizer | None = None
        self._network = network
        self._conditions = conditions
        self._lives = itertools.count(1)

    def start(self, service: str) -> None:
        """Start `model` or `detokenizer`, if it is down."""
        if service == "model" and self.model is None:
            self.model = SimulatedModel(
                self._network, self.model_address, next(self._lives), self._conditions
            )
        if service == "detokenizer" and self.detokenizer is None:
            self.detokenizer = SimulatedDetokenizer(
                self._network, self.detokenizer_address, self.model_address, f"frames{self.index}"
            )

    def life(self, service: str) -> SimulatedModel | SimulatedDetokenizer | None:
        """The process of `service`, None while it is down."""
        return self.model if service == "model" else self.detokenizer

    def step(self) -> bool:
        """Have the model run a step, if there is one to run; answer whether there was."""
        if self.model is None:
            return False
        try:
            return self.model.step()
        except Died:
            self.deaths += 1
            return self.kill("model")

    def kill(self, service: str) -> bool:
        """End a process at once; answer whether it was up."""
        life = self.life(service)
        if life is None:
            return False
        life.kill()
        setattr(self, service, None)
        return True

    def stop(self, service: str) -> bool:
        """Have a process end in order; answer whether it was up and could hear that."""
        life = self.life(service)
        if life is None or life.process.paused:
            return False
        self._network.leave(life.process)
        life.stopping.set()
        self._network.loop.settle()
        return self.kill(service)
