"""A stand-in for one service: the real chassis, and a role told by `FAKE_<SERVICE>`.

Roles: `serve` (the default), `refuse` to start, `fail` when started again, `stubborn` against
SIGTERM, `silent` (serves, but is never ready).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from prometheus_client import Gauge

from chassis.config import ServiceSettings
from chassis.errors import StartError
from chassis.memory.shared_file import SharedFile
from chassis.serving import server
from chassis.serving.server import Host

SERVICE = sys.argv[1]
ROLE = os.environ.get(f"FAKE_{SERVICE.upper()}", "serve")
RESTARTS = int(os.environ[f"TRIPTYCH_{SERVICE.upper()}_RESTARTS"])


@dataclass(frozen=True, kw_only=True)
class Settings(ServiceSettings):
    """All that any service is told."""

    tokenizer: str = ""
    replicas: str = ""
    model: str = ""
    checkpoint: str = ""
    model_address: str = ""
    name: str = ""
    models_here: int = 1


@asynccontextmanager
async def mount(host: Host) -> AsyncIterator[None]:
    log = logging.getLogger("fake")
    if ROLE == "refuse" or (ROLE == "fail" and RESTARTS > 0):
        raise StartError("no tokenizer.json in the checkpoint; save the tokenizer there")
    if SERVICE == "model":
        for done in (100, 250, 600, 1000):
            loaded = {"done_bytes": done, "total_bytes": 1000}
            log.info("loading weights", extra=loaded)
    sys.stderr.write(f"a plain line of the {SERVICE}\n")
    SharedFile.create("ring", 64)  # held until the process ends
    Gauge("fake_things", "Things.", registry=host.registry).set(7)
    await host.set_ready(ROLE != "silent")
    yield
    sys.stderr.write(f"{SERVICE} is stopping\n")
    if ROLE == "stubborn":
        signal.pause()


server.main(SERVICE, Settings, lambda settings: mount)
