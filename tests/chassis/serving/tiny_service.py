"""The smallest service: run as a process, in the role that `ROLE` names.

Roles: `serve` (the default), `refuse` (cannot start), `picky` (refuses a setting), `fail` (cannot
go on once `/Test/Fail` is called), `break` (likewise, for a bug), `forge` (likewise, for a bug that
tells a client's text), `fail-late` (fails while it closes).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from chassis.config import ServiceSettings, WrongValue
from chassis.errors import StartError
from chassis.serving.server import Host, Mount, main

ROLE = os.environ.get("ROLE", "serve")
FAILURES = {
    "fail": StartError("the engine stopped; see above"),
    "break": KeyError("slot"),
    "forge": ValueError("x\n12:00:00.000 error router [r-2] paid\x1b[2J"),
}


def make_mount(settings: ServiceSettings) -> Mount:
    if ROLE == "picky":
        raise WrongValue("grace_s", f"{settings.grace_s} does not please")

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        if ROLE == "refuse":
            raise StartError("no tokenizer.json in the checkpoint; save one there")

        async def break_down() -> None:
            raise FAILURES[ROLE]

        async def fail(request: bytes, context: Any) -> bytes:
            host.run(break_down())
            await asyncio.Event().wait()
            return b""

        handler = grpc.unary_unary_rpc_method_handler(fail)
        generic = grpc.method_handlers_generic_handler("Test", {"Fail": handler})
        host.server.add_generic_rpc_handlers((generic,))
        await host.set_ready(True)
        yield
        if ROLE == "fail-late":
            host.end(StartError("the engine did not end; see above"))

    return mount


main("router", ServiceSettings, make_mount)
