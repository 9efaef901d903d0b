"""Assembly of the tokenizer service: pool, metrics, servicer.

It is ready from the moment all workers have loaded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.errors import StartError
from chassis.serving.server import Host, Mount
from tokenizer_svc.pool import Pool
from tokenizer_svc.servicer import SERVICE, TokenizerMetrics, TokenizerServicer
from tokenizer_svc.settings import TokenizerSettings


def make_mount(settings: TokenizerSettings) -> Mount:
    """Mount of the tokenizer service."""

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        if settings.workers < 1:
            raise StartError(f"{settings.workers} tokenizer workers: at least 1 is needed")
        pool = Pool(Path(settings.model), settings.workers)
        metrics = TokenizerMetrics(host.registry, lambda: pool.waiting)
        async with pool.running(on_replaced=metrics.count_replaced):
            TokenizerServicer(pool, metrics).add_to(host.server)
            host.services.append(SERVICE)
            await host.set_ready(True)
            yield

    return mount
