"""Pods of the Kubernetes manifests as processes of this machine: same commands, same settings.

A pod's address is one of this machine's own, its name is known to a name server of the test, and
the bundled model is where it is in the repository. Nothing else is changed.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.deployments.manifests import BASE, ROOT, documents, environment
from support.deployments.name_server import NameServer, name_server
from support.deployments.proxies import own_address

from chassis.links.channels import open_channel

_START_S = 60.0
_STOP_S = 30.0
_IN_IMAGE = "/models/"
_NAME = re.compile(r"(?<![\w.])triptych-[\w.-]+:\d+")


def workload(kind: str) -> dict[str, Any]:
    """The base's only object of `kind`."""
    (found,) = (one for one in documents(*BASE.glob("*.yaml")) if one["kind"] == kind)
    return found


@dataclass(frozen=True)
class Pod:
    """A running pod: its containers and their processes, by name."""

    address: str
    containers: dict[str, dict[str, Any]]
    processes: dict[str, asyncio.subprocess.Process]

    def at(self, port: int) -> str:
        """One of its ports."""
        return f"{self.address}:{port}"

    async def serves(self, probe: Mapping[str, Any]) -> None:
        """Wait until a probe of it would succeed."""
        where = probe["grpc"]
        request = health_pb2.HealthCheckRequest(service=where.get("service", ""))
        async with open_channel(self.at(where["port"])) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(request, wait_for_ready=True, timeout=_START_S)
            async for answer in watch:
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return

    async def ready(self) -> None:
        """Wait until all startup and readiness probes succeed."""
        async with asyncio.TaskGroup() as group:
            for container in self.containers.values():
                group.create_task(self.serves(container["startupProbe"]))
                group.create_task(self.serves(container["readinessProbe"]))

    async def stop(self) -> None:
        """Tell all containers to stop, at once, as the kubelet does; wait until they have."""
        for process in self.processes.values():
            if process.returncode is None:
                process.terminate()
        for process in self.processes.values():
            await asyncio.wait_for(process.wait(), _STOP_S)


class Cluster:
    """Pods that find each other by name."""

    def __init__(self, names: NameServer, folder: Path) -> None:
        self._names = names
        self._folder = folder
        self._started = 0
        self.pods: list[Pod] = []

    async def start(self, kind: str, *names: str) -> Pod:
        """Start a pod of the base's workload of `kind`, to be known by `names`."""
        spec = workload(kind)["spec"]["template"]["spec"]
        containers = {one["name"]: one for one in spec["containers"]}
        pod = Pod(own_address(), containers, {})
        self._started += 1
        self.pods.append(pod)
        for name, container in containers.items():
            log = self._folder / f"{self._started}-{name}.log"
            pod.processes[name] = await self._run(container, pod.address, log)
        self._names.addresses.update(dict.fromkeys(names, pod.address))
        return pod

    def forget(self, name: str) -> None:
        """Let a name be unknown again."""
        del self._names.addresses[name]

    async def _run(
        self, container: Mapping[str, Any], address: str, log: Path
    ) -> asyncio.subprocess.Process:
        settings = {
            name: self._of_this_machine(value, address)
            for name, value in environment(container).items()
        }
        with log.open("wb") as output:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *container["args"]),
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=output,
                stderr=output,
            )

    def _of_this_machine(self, value: str, address: str) -> str:
        if value.startswith(_IN_IMAGE):
            return f"{ROOT}{value}"
        if value.startswith(("0.0.0.0:", "127.0.0.1:")):
            return f"{address}:{value.partition(':')[2]}"
        return _NAME.sub(rf"{self._names.authority}\g<0>", value)

    async def stop(self) -> None:
        """Stop all pods."""
        for pod in reversed(self.pods):
            await pod.stop()


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Cluster]:
    """An empty cluster for the block, the logs of its pods in `folder`."""
    async with name_server() as names:
        pods = Cluster(names, folder)
        try:
            yield pods
        finally:
            await pods.stop()
