"""The real router in a simulated process, before real replicas in others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import cache
from typing import Any, cast

from grpc import aio
from prometheus_client import CollectorRegistry
from support.simulation.calls import MemoryChannel
from support.simulation.links import Network
from support.simulation.loop import Process
from support.simulation.services import Conditions, SimulatedReplica

from router.metrics import RecoveryMetrics
from router.placement.dispatcher import Dispatcher
from router.placement.replica import Channels, Replica
from router.prompts import PromptReader
from router.request_runner import RequestRunner
from router.requests.prompt_arena import PromptArena
from router.requests.sizes import Sizes
from router.settings import RecoveryTimeouts, ReplicaAddress, RouterSettings
from router.text_decoder import TextDecoder

ARENA_BYTES = 512  # some prompts find no room
RECOVERY_S = 1e6  # nobody gives up: that has tests of its own
REJOIN_S = RouterSettings.rejoin_s
MAX_QUEUE = 100


def sizes() -> Sizes:
    return Sizes(message_bytes=1 << 25, text_bytes=1 << 22)


@cache
def recovery_counted() -> RecoveryMetrics:
    return RecoveryMetrics(CollectorRegistry())


class SimulatedRouter:
    """A router that takes prompts of ids only, and so needs no tokenizer."""

    def __init__(
        self, network: Network, replicas: Sequence[SimulatedReplica], conditions: Conditions
    ) -> None:
        self.process = Process("router")
        self._network = network
        self.arena = PromptArena(ARENA_BYTES if conditions.shared else 0)
        self.dispatcher = Dispatcher(MAX_QUEUE, RECOVERY_S, lambda: None)
        self.replicas = tuple(self._link(replica) for replica in replicas)
        self.dispatcher.replicas = self.replicas
        no_tokenizer = cast(Any, None)
        prompts = PromptReader(no_tokenizer, self.arena, sizes)
        self.runner = RequestRunner(
            prompts, self.dispatcher, TextDecoder(self.dispatcher, RECOVERY_S), sizes
        )
        for replica in self.replicas:
            network.loop.start(self.process, replica.run_links())

    def _link(self, replica: SimulatedReplica) -> Replica:
        return Replica(
            ReplicaAddress(replica.model_address, replica.detokenizer_address),
            Channels(
                self._channel(f"run{replica.index}", replica.model_address),
                self._channel(f"watch{replica.index}", replica.detokenizer_address),
            ),
            self.arena,
            self.dispatcher.update,
            recovery_counted(),
            RecoveryTimeouts(RECOVERY_S, REJOIN_S),
        )

    def _channel(self, link: str, address: str) -> aio.Channel:
        return cast(aio.Channel, MemoryChannel(self._network.link(link, self.process, address)))

    def start(self, coro: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin a task of it."""
        return self._network.loop.start(self.process, coro)

    def kill(self) -> None:
        """End it at once."""
        self._network.kill(self.process)

    def close(self) -> None:
        """End it, and remove what it shares."""
        self.kill()
        self.arena.close()
