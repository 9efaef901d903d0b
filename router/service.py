"""The router on a server: its links, its queue, its servicer, put together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from chassis.links.channels import open_channel
from chassis.policies.registry import POLICIES
from chassis.serving.introspection import transport
from chassis.serving.server import Host, Mount
from protos import generation_pb2_grpc, service_pb2
from router.api.message_limits import HELD_METHODS, request_checks
from router.api.triptych_v1 import GenerationServicer
from router.links.tokenizer_link import TokenizerLink
from router.metrics import LinkCollector, RecoveryMetrics, RouterMetrics
from router.placement.dispatcher import Dispatcher
from router.placement.replica import Channels, Replica
from router.prompts import PromptReader
from router.request_runner import RequestRunner
from router.requests.prompt_arena import PromptArena
from router.requests.sizes import Sizes
from router.settings import RouterSettings, check_ranges, replica_addresses
from router.text_decoder import TextDecoder

SERVICE = "triptych.v1.GenerationService"


class Router:
    """All parts of one router."""

    def __init__(
        self, settings: RouterSettings, arena: PromptArena, metrics: RecoveryMetrics
    ) -> None:
        """Prepare the links; `run` brings them up.

        Args:
            settings: checked.
            arena: where prompts go.
            metrics: counts.
        """
        self._readiness = asyncio.Event()
        self._readiness.set()
        self.arena = arena
        self.dispatcher = Dispatcher(
            settings.max_queue,
            settings.recovery_s,
            self._readiness.set,
            POLICIES[settings.policy],
        )
        self.tokenizer = TokenizerLink(
            settings.tokenizer,
            arena,
            recovery_s=settings.recovery_s,
            max_message_mib=settings.max_message_mib,
            changed=self._readiness.set,
            arena_renewed=self._offer_arena,
        )
        self._channels = _open_channels(settings)
        self.dispatcher.replicas = tuple(
            Replica(address, channels, arena, self.dispatcher.update, metrics, settings.timeouts)
            for address, channels in zip(replica_addresses(settings), self._channels, strict=True)
        )
        self._settings = settings
        self.decoder = TextDecoder(self.dispatcher, settings.recovery_s)
        self.runner = RequestRunner(
            PromptReader(self.tokenizer, arena, self.sizes),
            self.dispatcher,
            self.decoder,
            self.sizes,
            generation_defaults=settings.generation_defaults,
        )

    def sizes(self) -> Sizes:
        """Sizes that the bounds of messages follow from, as far as they are known now."""
        return Sizes(
            message_bytes=self._settings.max_message_mib << 20,
            text_bytes=self._settings.max_text_kib << 10,
            prompt_ids=self.dispatcher.prompt_ids,
            bytes_per_id=self.tokenizer.bytes_per_id,
        )

    async def run(self, host: Host) -> None:
        """Keep all links up, and the readiness of `host` as theirs, until cancelled."""
        async with AsyncExitStack() as opened, asyncio.TaskGroup() as group:
            for channels in self._channels:
                await opened.enter_async_context(channels.model)
                await opened.enter_async_context(channels.detokenizer)
            group.create_task(self.tokenizer.run())
            for replica in self.dispatcher.replicas:
                group.create_task(replica.run_links())
            while True:
                await self._readiness.wait()
                self._readiness.clear()
                await host.set_ready(self.tokenizer.ready and self.dispatcher.ready)

    def list_links(self) -> Sequence[service_pb2.Link]:
        """The links to other services, for introspection."""
        tokenizer = self.tokenizer
        links = [_link("tokenizer", tokenizer.address, tokenizer.ready, tokenizer.shares)]
        for replica in self.dispatcher.replicas:
            model, detokenizer, address = replica.model, replica.detokenizer, replica.address
            links.append(_link("model", address.model, model.up, model.shares))
            upstream = detokenizer.upstream
            shared = upstream.shared if upstream.linked else None
            links.append(_link("detokenizer", address.detokenizer, detokenizer.up, shared))
        return links

    def _offer_arena(self) -> None:
        for replica in self.dispatcher.replicas:
            replica.model.offer_arena()


def _open_channels(settings: RouterSettings) -> list[Channels]:
    """The channels to each replica's services."""
    most_mib = settings.max_message_mib
    return [
        Channels(
            open_channel(address.model, max_message_mib=most_mib),
            open_channel(address.detokenizer, max_message_mib=most_mib),
        )
        for address in replica_addresses(settings)
    ]


def _link(service: str, address: str, ready: bool, shared: bool | None) -> service_pb2.Link:
    """A link for introspection; `shared` is None where the transport is not agreed yet."""
    known = ready and shared is not None
    how = transport(bool(shared)) if known else service_pb2.TRANSPORT_UNSPECIFIED
    return service_pb2.Link(service=service, address=address, ready=ready, transport=how)


def mount(settings: RouterSettings) -> Mount:
    """Prepare the router with `settings`.

    Raises:
        ConfigError: a setting is malformed.
    """
    check_ranges(settings)
    replica_addresses(settings)

    @asynccontextmanager
    async def mounted(host: Host) -> AsyncIterator[None]:
        host.remove_dead_files()
        arena = PromptArena(settings.arena_mib << 20 if settings.shared_memory else 0)
        router = Router(settings, arena, RecoveryMetrics(host.registry))
        _add_service(host, router)
        host.checks.update(request_checks(router.sizes))
        host.intake.most_bytes = settings.max_queue_mib << 20
        host.intake.methods = HELD_METHODS
        await host.set_ready(False)
        running = host.run(router.run(host))
        try:
            yield
        finally:
            running.cancel()
            await asyncio.wait([running])
            arena.close()

    return mounted


def _add_service(host: Host, router: Router) -> None:
    """Have `host` answer clients by `router`, and show its links."""
    dispatcher = router.dispatcher
    metrics = RouterMetrics(
        host.registry,
        lambda: dispatcher.queued,
        lambda: dispatcher.running,
        lambda: dispatcher.rate,
    )
    servicer = GenerationServicer(
        router.runner, router.tokenizer, router.decoder, dispatcher, router.sizes, metrics
    )
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, host.server)
    host.registry.register(LinkCollector(router.list_links))
    host.services.append(SERVICE)
    host.list_links = router.list_links
