"""Life cycle of a deployment: start all services at once, announce readiness, stop all.

Whatever ends it, no service is left running and no file is left behind. A service that ends by
itself is started again, unless it ends before the deployment was ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from chassis.config import ServiceSettings
from chassis.errors import StartError
from chassis.imports import import_environment, refused_folders
from chassis.links.channels import open_channel
from chassis.links.sockets import release_dead
from chassis.memory.shared_file import sweep
from chassis.metrics import served_over_http
from chassis.serving.process import unless_ignored
from triptych import addresses
from triptych.supervisor.backoff import RestartBackoff
from triptych.supervisor.child import Child, Ended
from triptych.supervisor.display import Display
from triptych.supervisor.log_lines import parse, write
from triptych.supervisor.metrics_proxy import DeploymentCollector
from triptych.supervisor.plan import (
    DETOKENIZER,
    MODEL,
    ROUTER,
    TOKENIZER,
    Deployment,
    ServicePlan,
    plan,
)
from triptych.supervisor.runtime_folder import runtime_folder

# What is in flight may finish while the services behind the router still work for it.
_STAGES = ((ROUTER,), (TOKENIZER, DETOKENIZER), (MODEL,))
# How long a service closes once its calls have ended or were cut.
_CLOSING_S = 3.0

Announce = Callable[[str], None]
OnReady = Callable[[str], None]


async def supervise(deployment: Deployment, display: Display, announce: Announce) -> None:
    """Run `deployment` until SIGINT, SIGTERM or SIGHUP; a second one, or SIGQUIT, kills all.

    SIGHUP stays ignored where this process was started so. SIGINT does not: shells start all that
    scripts run in the background so, and a sender of it to a server means it.

    Args:
        deployment: what to run.
        display: shows the services' logs.
        announce: called with each line meant for the command's caller: the public address once a
            request would be answered, and then that of the metrics.

    Raises:
        StartError: a service cannot start.
    """
    environment = import_environment(os.environ)
    _warn_of_refused_folders(display)
    with ExitStack() as opened:
        opened.callback(sweep)  # what was killed has left its files behind
        folder = opened.enter_context(runtime_folder())
        plans = plan(deployment, folder, parent_pid=os.getpid(), environment=environment)
        display.align(plans)
        supervisor = Supervisor(plans, display, deployment.grace_s)
        metrics = _serve_metrics(opened, supervisor, deployment.metrics_listen, display)

        def on_ready(address: str) -> None:
            announce(f"ready on {address}")
            if metrics is not None:
                announce(f"metrics on http://{metrics}/metrics")

        opened.enter_context(_signals(supervisor))
        opened.callback(lambda: release_dead(supervisor.children[0].address))
        failed = await supervisor.run(on_ready)
    if failed is not None:
        raise StartError(failed.describe())


def _warn_of_refused_folders(display: Display) -> None:
    for name, reason in refused_folders(os.environ).items():
        display.log(logging.WARNING, f"nothing is imported from {name}: {reason}")


class Supervisor:
    """Runs the processes of `plans`; `children` are those, the router first."""

    def __init__(self, plans: list[ServicePlan], display: Display, grace_s: float) -> None:
        self.children = tuple(Child(one, self._on_line) for one in plans)
        self._display = display
        self._grace_s = grace_s
        self._stopping = asyncio.Event()
        self._router_listens = asyncio.Event()
        self._was_ready = False
        self._failed: Ended | None = None

    async def run(self, on_ready: OnReady) -> Ended | None:
        """Run the services until a stop is requested, or one fails to start, which is returned.

        Args:
            on_ready: called once, with the public address.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                for child in self.children:
                    tasks.create_task(self._run_child(child))
                readying = tasks.create_task(self._until_ready(on_ready))
                await self._stopping.wait()
                readying.cancel()
                # Inside the group, so that what the services write while they end is still shown.
                await self._stop_all()
        finally:
            await self._stop_all()
        return self._failed

    def stop(self) -> None:
        """End `run`; when called again, without waiting for the services."""
        if self._stopping.is_set():
            self.kill()
            return
        self._stopping.set()
        self._display.log(logging.INFO, self._describe_stop())

    def kill(self) -> None:
        """End `run` without waiting for the services."""
        for child in self.children:
            child.kill()
        self._stopping.set()

    def _describe_stop(self) -> str:
        if not self._was_ready:
            return "stopping"
        # The router is who waits for requests.
        router = self.children[0]
        given_s = ServiceSettings.grace_s if router.plan.grace_s is None else router.plan.grace_s
        within_s = min(given_s, self._grace_of(router))
        return (
            f"stopping: running requests have up to {within_s:g} s to end; "
            f"Ctrl-C again ends them at once"
        )

    async def _run_child(self, child: Child) -> None:
        """Run a service, again whenever it ends once the deployment was ready."""
        clock = asyncio.get_running_loop().time
        backoff = RestartBackoff()
        while not self._stopping.is_set():
            started = clock()
            ended = await child.run()
            self._display.ended(child.plan)
            if self._stopping.is_set():
                return
            if not self._was_ready:
                self._failed = ended
                self._stopping.set()
                return
            delay_s = backoff.after(lived_s=clock() - started)
            child.restarts += 1
            self._tell_restart(child, ended, delay_s)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()

    async def _until_ready(self, on_ready: OnReady) -> None:
        await self._router_listens.wait()
        router = self.children[0]
        async with open_channel(router.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), wait_for_ready=True
            )
            try:
                async for answer in watch:
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        self._was_ready = True
                        on_ready(router.address)
                        return
            except grpc.RpcError:
                return  # the router has ended, which its process shows
            finally:
                # Closing the channel does not: the router would wait for the call when it stops.
                watch.cancel()

    async def _stop_all(self) -> None:
        """Stop each service before its peers, so that none loses another."""
        for stage in _STAGES:
            stopped = [child for child in self.children if child.plan.service in stage]
            await asyncio.gather(*(child.stop(self._grace_of(child)) for child in stopped))

    def _grace_of(self, child: Child) -> float:
        """Seconds for its end: the operator's grace for calls, and some to close."""
        grace_s = child.plan.grace_s
        return self._grace_s if grace_s is None else grace_s + _CLOSING_S

    def _on_line(self, child: Child, line: str) -> None:
        record = parse(line)
        # What the others say when one did not start is its echo; the one line that matters is to
        # be the last, not one of twenty.
        if self._failed is None or record is None or record.level >= logging.ERROR:
            self._display.show(child.plan, line, record)
        if record is not None and child.plan.service == ROUTER and record.event == "listening":
            # Where it serves from now on, also when it is started again.
            child.address = str(record.fields["address"])
            self._router_listens.set()

    def _tell_restart(self, child: Child, ended: Ended, delay_s: float) -> None:
        fields = {"restarts": child.restarts, "delay_s": delay_s, "cause": ended.cause}
        line = write(child.plan.service, logging.WARNING, "ended, starting it again", fields)
        self._display.show(child.plan, line, parse(line))


@contextmanager
def _signals(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    stopping = (signal.SIGINT, signal.SIGTERM, *unless_ignored((signal.SIGHUP,)))
    killing = unless_ignored((signal.SIGQUIT,))
    for number in stopping:
        loop.add_signal_handler(number, supervisor.stop)
    for number in killing:
        loop.add_signal_handler(number, supervisor.kill)
    try:
        yield
    finally:
        for number in (*stopping, *killing):
            loop.remove_signal_handler(number)


def _serve_metrics(
    opened: ExitStack, supervisor: Supervisor, wanted: str | None, display: Display
) -> str | None:
    """Serve the metrics until `opened` closes; return the bound address, None where `off`.

    Raises:
        StartError: the address that was asked for cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(DeploymentCollector(supervisor.children, asyncio.get_running_loop()))
    address = wanted or addresses.METRICS
    try:
        port = opened.enter_context(served_over_http(registry, address))
    except StartError:
        if wanted is not None:
            raise
        address = f"{address.rpartition(':')[0]}:0"
        port = opened.enter_context(served_over_http(registry, address))
        display.log(
            logging.WARNING,
            f"metrics: {addresses.METRICS} is taken, serving them on port {port} instead",
        )
    return None if port is None else f"{address.rpartition(':')[0]}:{port}"
