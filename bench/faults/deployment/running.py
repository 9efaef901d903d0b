"""Deployments to strike: under a supervisor, or as four commands with links that can stall.

Each ends with its block, in good order or with a complaint.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.faults.deployment.processes import MODEL, Place, ProcessTable
from bench.faults.deployment.proxy import Proxy
from chassis.links.channels import open_channel

ROOT = Path(__file__).resolve().parents[3]
DEMO = ROOT / "models" / "demo"
# Fewer candidates than the mix has, so that some of its requests have to queue; and so many that
# one replica has room for all that two had.
_FEW, _MANY = 24, 48
# Models, clients and all other processes share what may be two cores. Threads of a step that wait
# for each other spinning would take them from the thread that they wait for.
_THREADING = {"OMP_WAIT_POLICY": "PASSIVE"}
_READY_S = 120.0
_STOP_S = 30.0


class DeploymentFailed(Exception):
    """A deployment did not start, or did not come back."""


@dataclass
class Deployment:
    """A running deployment.

    Attributes:
        address: where clients call.
        processes: its processes.
        links: those that can stall, by name; empty under a supervisor.
        load_s: how long its model took from the start of its process to SERVING.
        complaints: what was not in order when it ended.
    """

    address: str
    processes: ProcessTable
    links: Mapping[str, Proxy] = field(default_factory=dict)
    load_s: float = 0.0
    complaints: list[str] = field(default_factory=list)


@asynccontextmanager
async def supervised(
    log: IO[bytes], *, replicas: int = 1, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Deployment]:
    """Run `triptych serve` on the bundled model in float32 for the block.

    Args:
        log: takes what the services log.
        replicas: how many.
        settings: variables of the services.

    Raises:
        DeploymentFailed: it did not become ready.
    """
    command = ["-m", "triptych", "serve", "--model", str(DEMO), "--dtype", "float32"]
    command += ["--replicas", str(replicas), "--listen", "127.0.0.1:0", "--metrics-listen", "off"]
    sequences = _FEW if replicas == 1 else _MANY
    environment = {"TRIPTYCH_MODEL_MAX_SEQUENCES": str(sequences), **(settings or {})}
    process = _start(command, environment, log)
    deployment = Deployment("", ProcessTable(process.pid))
    try:
        async with asyncio.timeout(_READY_S):
            deployment.address, deployment.load_s = await asyncio.gather(
                _ready(process), load_s(deployment.processes, MODEL)
            )
        yield deployment
    finally:
        await _stop("triptych serve", process, deployment)
        _look_for_files(deployment)


def _look_for_files(deployment: Deployment) -> None:
    left = deployment.processes.left_files()
    deployment.complaints += [f"{path} was left behind" for path in left]


async def _ready(process: subprocess.Popen[str]) -> str:
    line = await asyncio.to_thread(process.stdout.readline) if process.stdout else ""
    if not line.startswith("ready on "):
        raise DeploymentFailed("`triptych serve` ended before it was ready")
    return line.removeprefix("ready on ").strip()


@asynccontextmanager
async def separate(log: IO[bytes]) -> AsyncIterator[Deployment]:
    """Run the four services as four commands for the block, each link through a proxy.

    Args:
        log: takes what they log.
    """
    async with AsyncExitStack() as running:
        folder = running.enter_context(tempfile.TemporaryDirectory(prefix="triptych-faults-"))
        at = {name: f"{folder}/{name}" for name in ("router", "tokenizer", "model", "detokenizer")}
        links = {
            "router-tokenizer": Proxy(at["tokenizer"]),
            "router-model": Proxy(at["model"]),
            "router-detokenizer": Proxy(at["detokenizer"]),
            "detokenizer-model": Proxy(at["model"]),
        }
        for link in links.values():
            await running.enter_async_context(link.listening())
        deployment = Deployment(f"unix:{at['router']}", ProcessTable(os.getpid()), links)
        running.callback(_look_for_files, deployment)  # when all have ended
        for module, settings in _commands(links).items():
            name = module.removesuffix("_svc")
            values = {"LISTEN": f"unix:{at[name]}", "PARENT_PID": str(os.getpid()), **settings}
            prefix = f"TRIPTYCH_{name.upper()}_"
            environment = {prefix + key: value for key, value in values.items()}
            process = _start(["-m", module], environment, log)
            running.push_async_callback(_stop, module, process, deployment)
        async with asyncio.timeout(_READY_S):
            deployment.load_s = await load_s(deployment.processes, MODEL)
            await until_serving(deployment.address)
        yield deployment


def _commands(links: Mapping[str, Proxy]) -> dict[str, dict[str, str]]:
    """Modules to run and their settings; the last is stopped first."""
    demo = str(DEMO)
    return {
        "model_svc": {
            "CHECKPOINT": demo,
            "DTYPE": "float32",
            "MAX_SEQUENCES": str(_FEW),
            "GRACE_S": "1",
        },
        "detokenizer_svc": {
            "MODEL": demo,
            "MODEL_ADDRESS": links["detokenizer-model"].address,
            "GRACE_S": "1",
        },
        "tokenizer_svc": {"MODEL": demo, "GRACE_S": "1"},
        "router": {
            "TOKENIZER": links["router-tokenizer"].address,
            "REPLICAS": (f"{links['router-model'].address}+{links['router-detokenizer'].address}"),
        },
    }


def _start(
    arguments: list[str], settings: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[str]:
    # What a shell has set for another deployment does not apply here.
    inherited = {name: one for name, one in os.environ.items() if not name.startswith("TRIPTYCH_")}
    # Not through the event loop: Popen's vfork does not run gRPC's fork handlers.
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**inherited, **_THREADING, **settings},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )


async def _stop(name: str, process: subprocess.Popen[str], deployment: Deployment) -> None:
    """End a process that was started here, and say so where it does not end well."""
    deployment.processes.note_files()
    process.send_signal(signal.SIGTERM)
    try:
        code = await asyncio.to_thread(process.wait, _STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        deployment.complaints.append(f"{name} did not stop within {_STOP_S:.0f} s")
    else:
        if code != 0:
            deployment.complaints.append(f"{name} ended with exit code {code}")
    finally:
        if process.stdout is not None:
            process.stdout.close()


async def load_s(processes: ProcessTable, place: Place, after_pid: int = 0) -> float:
    """Seconds from the start of the process at `place` to its being SERVING, once it is.

    Args:
        processes: where to look.
        place: of the process.
        after_pid: its predecessor; 0: any process is accepted.

    Raises:
        NotBack: there is none.
    """
    while True:
        process = await processes.successor(place, after_pid)
        await until_serving(process.listen)
        now = processes.find(place)
        if now is not None and now.pid == process.pid:
            return now.age_s


async def until_serving(address: str) -> None:
    """Wait until the service at `address` is SERVING."""
    async with open_channel(address) as channel:
        while True:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True
            )
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
            except grpc.RpcError:
                continue  # it died; another one will come
            finally:
                watch.cancel()
