"""The model service on a server: load in the engine's thread, then run there until the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from chassis.serving.server import Host, Mount
from model_svc.assembly import LoadedModel, load
from model_svc.serving.servicer import ModelServicer, Rings
from model_svc.settings import ModelSettings
from protos import model_pb2_grpc

SERVICE = "triptych.internal.v1.ModelService"


def mount(settings: ModelSettings) -> Mount:
    """Prepare the model service with `settings`."""

    @asynccontextmanager
    async def mounted(host: Host) -> AsyncIterator[None]:
        host.remove_dead_files()
        rings = Rings(settings.ring_kib << 10 if settings.shared_memory else 0)
        servicer = ModelServicer(rings, settings.ring_kib << 10, host.stopping)
        model_pb2_grpc.add_ModelServiceServicer_to_server(servicer, host.server)
        host.services.append(SERVICE)
        await host.set_ready(False)
        running = host.run(_run(settings, host, servicer))
        try:
            yield
        finally:
            servicer.quit()
            await asyncio.wait([running])
            rings.close()

    return mounted


async def _run(settings: ModelSettings, host: Host, servicer: ModelServicer) -> None:
    """Load the model and run its engine, both on one thread."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine") as thread:
        model: LoadedModel = await loop.run_in_executor(
            thread, load, settings, host.registry, lambda deliver: _post(loop, deliver)
        )
        servicer.serve(model)
        await host.set_ready(True)
        await loop.run_in_executor(thread, model.engine.run)


def _post(loop: asyncio.AbstractEventLoop, deliver: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(deliver)
