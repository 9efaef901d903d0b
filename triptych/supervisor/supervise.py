"""The life of a deployment: start all services at once, say when it is ready, stop all.

Whatever ends it, no service is left running and no file is left behind. A service that ends by
itself ends the deployment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from chassis.channels import open_channel
from chassis.errors import StartError
from chassis.metrics import served_over_http
from triptych import addresses
from triptych.supervisor.child import Child, Ended
from triptych.supervisor.display import Display
from triptych.supervisor.exposition import DeploymentCollector
from triptych.supervisor.log_lines import parse
from triptych.supervisor.plan import ROUTER, Deployment, ServicePlan, plan
from triptych.supervisor.runtime_folder import runtime_folder

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Announce = Callable[[str], None]


class ServiceLost(Exception):
    """A service of a deployment that was ready has ended."""


async def supervise(deployment: Deployment, display: Display, announce: Announce) -> None:
    """Run `deployment` until SIGINT, SIGTERM or SIGHUP; a second signal kills the services.

    Args:
        deployment: what to run.
        display: shows the services' logs.
        announce: called with each line meant for whoever started this: the public address once a
            request would be answered, and then that of the metrics.

    Raises:
        StartError: a service cannot start.
        ServiceLost: a service ended after the deployment was ready.
    """
    with ExitStack() as opened:
        folder = opened.enter_context(runtime_folder())
        plans = plan(deployment, folder, parent_pid=os.getpid(), environment=os.environ)
        services = {one.service: one.address for one in plans}
        metrics = _serve_metrics(opened, services, deployment.metrics_listen, display)

        def on_ready() -> None:
            announce(f"ready on {services[ROUTER]}")
            if metrics is not None:
                announce(f"metrics on http://{metrics}/metrics")

        supervisor = Supervisor(plans, services, display, deployment.grace_s)
        opened.enter_context(_signals(supervisor))
        ended = await supervisor.run(on_ready)
    if ended is not None and supervisor.was_ready:
        raise ServiceLost(f"{ended.describe()}; the other services were stopped")
    if ended is not None:
        raise StartError(ended.describe())


class Supervisor:
    """Starts, watches and stops the processes of `plans`.

    Keeps `addresses`, by service, up to date with what the services say of themselves.
    """

    def __init__(
        self,
        plans: list[ServicePlan],
        addresses: dict[str, str],
        display: Display,
        grace_s: float,
    ) -> None:
        self._children = [Child(one, self._on_line) for one in plans]
        self._addresses = addresses
        self._display = display
        self._grace_s = grace_s
        self._told_to_stop = asyncio.Event()
        self._router_listens = asyncio.Event()
        self.was_ready = False
        self._start_failed = False

    async def run(self, on_ready: Callable[[], None]) -> Ended | None:
        """Run the services until told to stop, or until one ends, which is then returned."""
        try:
            for child in self._children:
                await child.start()
            return await self._watch(on_ready)
        finally:
            await self._stop_all()

    def stop(self) -> None:
        """End `run`; when called again, without waiting for the services."""
        if self._told_to_stop.is_set():
            for child in self._children:
                child.kill()
        self._told_to_stop.set()

    async def _watch(self, on_ready: Callable[[], None]) -> Ended | None:
        async with asyncio.TaskGroup() as tasks:
            lives = {tasks.create_task(child.wait()) for child in self._children}
            told = tasks.create_task(self._told_to_stop.wait())
            readying = tasks.create_task(self._until_ready(on_ready))
            await asyncio.wait({*lives, told}, return_when=asyncio.FIRST_COMPLETED)
            ended = None if told.done() else next(one.result() for one in lives if one.done())
            self._start_failed = ended is not None and not self.was_ready
            told.cancel()
            readying.cancel()
            # Inside the group, so that what the services write while they end is still shown.
            await self._stop_all()
        return ended

    async def _until_ready(self, on_ready: Callable[[], None]) -> None:
        await self._router_listens.wait()
        async with open_channel(self._addresses[ROUTER]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True
            )
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        self.was_ready = True
                        on_ready()
                        return
            except grpc.RpcError:
                return  # the router has ended, which its process tells
            finally:
                # Closing the channel does not: the router would wait for the call when it stops.
                watch.cancel()

    async def _stop_all(self) -> None:
        """The router first: what is in flight may finish while the others still work for it."""
        router, *others = self._children
        await router.stop(self._grace_s)
        await asyncio.gather(*(child.stop(self._grace_s) for child in others))

    def _on_line(self, one: ServicePlan, line: str) -> None:
        record = parse(line)
        # What the others say when one did not start is its echo; the one line that matters is to
        # be the last, not one of twenty.
        if not (self._start_failed and record is not None and record.level < logging.ERROR):
            self._display.show(one, line, record)
        if record is not None and one.service == ROUTER and record.event == "listening":
            self._addresses[ROUTER] = str(record.fields["address"])
            self._router_listens.set()


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _STOPPING:
        loop.add_signal_handler(number, supervisor.stop)
    try:
        yield
    finally:
        for number in _STOPPING:
            loop.remove_signal_handler(number)


def _serve_metrics(
    opened: ExitStack, services: dict[str, str], wanted: str | None, display: Display
) -> str | None:
    """Serve the metrics until `opened` closes; return the bound address, None where `off`.

    Raises:
        StartError: the address that was asked for cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(DeploymentCollector(services, asyncio.get_running_loop()))
    address = wanted or addresses.METRICS
    try:
        port = opened.enter_context(served_over_http(registry, address))
    except StartError:
        if wanted is not None:
            raise
        address = f"{address.rpartition(':')[0]}:0"
        port = opened.enter_context(served_over_http(registry, address))
        display.say(f"metrics: {addresses.METRICS} is taken, serving them on port {port} instead")
    return None if port is None else f"{address.rpartition(':')[0]}:{port}"
