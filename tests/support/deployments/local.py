"""Real deployments for end-to-end tests: `triptych serve` as a user starts it, real processes."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from prometheus_client.parser import text_string_to_metric_families

from protos import generation_pb2, generation_pb2_grpc, service_pb2, service_pb2_grpc
from triptych import deployment_status

ROOT = Path(__file__).resolve().parents[3]
_READY = re.compile(r"ready on (\S+)")
_START_S = 120
_SETTLE_S = 10


@dataclass
class Deployment:
    """A running `triptych serve`."""

    process: subprocess.Popen[str]
    address: str
    channel: grpc.Channel
    lines: list[str] = field(default_factory=list)
    ends_with: int = 0

    @property
    def api(self) -> generation_pb2_grpc.GenerationServiceStub:
        return generation_pb2_grpc.GenerationServiceStub(self.channel)

    def all_links(self) -> list[service_pb2.Link]:
        """The router's links, its replicas' in their order."""
        stub = service_pb2_grpc.IntrospectionServiceStub(self.channel)
        return list(stub.Describe(service_pb2.DescribeRequest(), timeout=10).links)

    def links(self) -> dict[str, service_pb2.Link]:
        """The router's links by service; of several replicas, the first one's."""
        return {link.service: link for link in reversed(self.all_links())}

    def metric(self, service: str, name: str) -> float:
        """A metric of a service, summed over its labels and replicas; asked of each itself."""
        addresses = [link.address for link in self.all_links() if link.service == service]
        if service == "router":
            addresses = [self.address]
        return sum(_metric(address, name) for address in addresses)

    def services(self) -> dict[str, deployment_status.ServiceState]:
        """What `triptych status` tells of each service: `router`, `model`, or `model/0` and on."""
        seen = asyncio.run(deployment_status.collect(self.address)).services
        several = any(one.replica for one in seen)
        return {
            f"{one.name}/{one.replica}" if several and one.replica is not None else one.name: one
            for one in seen
        }

    def kill(self) -> None:
        """Kill the supervisor, as an out-of-memory killer would, and wait until it is gone."""
        self.ends_with = -signal.SIGKILL
        self.process.kill()
        self.process.wait(30)

    def settled_load(self) -> generation_pb2.GetLoadResponse:
        """The load once nothing runs; what the router tells follows the engine by a message."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            load = self.api.GetLoad(generation_pb2.GetLoadRequest(), timeout=10)
            if not (load.running or load.queued or load.kv_slots_used):
                return load
            if time.monotonic() > deadline:
                raise AssertionError(f"something is still held: {load}")
            time.sleep(0.02)

    def pids(self) -> list[int]:
        """The supervisor and all processes below it."""
        return [self.process.pid, *_descendants(self.process.pid)]


def _metric(address: str, name: str) -> float:
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.IntrospectionServiceStub(channel)
        text = stub.Scrape(service_pb2.ScrapeRequest(), timeout=10).text.decode()
    families = text_string_to_metric_families(text)
    return sum(one.value for f in families for one in f.samples if one.name == name)


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield int(child)
            yield from _descendants(int(child))


def command(model: Path, *options: str) -> list[str]:
    """`triptych serve` on `model` with ports of its own."""
    serve = [sys.executable, "-m", "triptych", "serve", "--model", str(model)]
    return [*serve, "--listen", "127.0.0.1:0", "--metrics-listen", "off", *options]


@contextmanager
def deployed(
    model: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """Serve `model` inside the block; fail if it does not end cleanly afterwards."""
    process = subprocess.Popen(
        command(model, *options),
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    ends_with = 0
    fresh: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process, lines, fresh))
    reader.start()
    try:
        address = _await_ready(fresh, lines)
        with grpc.insecure_channel(address) as channel:
            deployment = Deployment(process, address, channel, lines)
            yield deployment
            ends_with = deployment.ends_with
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            process.kill()
            reader.join()
            assert process.stdout is not None
            process.stdout.close()
    assert process.returncode == ends_with, "\n".join(lines[-40:])


def _read(
    process: subprocess.Popen[str], lines: list[str], fresh: queue.SimpleQueue[str | None]
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        fresh.put(lines[-1])
    fresh.put(None)


def _await_ready(fresh: queue.SimpleQueue[str | None], lines: list[str]) -> str:
    while (line := fresh.get(timeout=_START_S)) is not None:
        if match := _READY.search(line):
            return match[1]
    raise AssertionError("it ended before it was ready:\n" + "\n".join(lines))
