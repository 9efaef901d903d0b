"""The life of a deployment, with stand-ins for the services: real processes, real sockets."""

import asyncio
import io
import os
import signal
import socket
import sys
import urllib.request
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from chassis.channels import open_channel
from chassis.errors import StartError
from triptych.supervisor import supervise as module
from triptych.supervisor.display import Display
from triptych.supervisor.plan import Deployment, plan
from triptych.supervisor.supervise import ServiceLost, supervise

FAKE = str(Path(__file__).with_name("fake_service.py"))


@pytest.fixture(autouse=True)
def fakes(monkeypatch, tmp_path_factory):
    """Put stand-ins in the places of the services; remember what they were told."""
    planned = []

    def plan_fakes(*args, **options):
        plans = plan(*args, **options)
        planned[:] = plans
        return [replace(one, command=(sys.executable, FAKE, one.service)) for one in plans]

    monkeypatch.setattr(module, "plan", plan_fakes)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return planned


@pytest.fixture
def deployment(tmp_path):
    return Deployment(
        checkpoint=tmp_path, listen="127.0.0.1:0", metrics_listen="127.0.0.1:0", grace_s=10.0
    )


class Running:
    """A deployment run as a task: what it announces, what it shows, how it ends."""

    def __init__(self, deployment: Deployment) -> None:
        self.stderr = io.StringIO()
        self.lines: list[str] = []
        self._announced = asyncio.Event()
        self.started = asyncio.Event()
        self._all_listen = asyncio.Event()
        display = Display(self.stderr, log_format="text")
        display.say = self._say
        self.task = asyncio.create_task(supervise(deployment, display, self._announce))

    def _say(self, line: str) -> None:
        self.stderr.write(f"{line}\n")
        self.started.set()
        if self.stderr.getvalue().count(" listening ") == 4:
            self._all_listen.set()

    def _announce(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("metrics on "):
            self._announced.set()

    async def ready(self) -> str:
        """Wait until it is ready; return the public address."""
        # The stand-in of the router does not wait for the others.
        both = asyncio.gather(self._announced.wait(), self._all_listen.wait())
        await asyncio.wait({self.task, both}, return_when=asyncio.FIRST_COMPLETED)
        both.cancel()
        if self.task.done():
            self.task.result()
        return self.lines[0].removeprefix("ready on ")

    @property
    def metrics_url(self) -> str:
        return self.lines[1].removeprefix("metrics on ")


@asynccontextmanager
async def run(deployment):
    """A ready deployment; it must end well when it is told to stop."""
    running = Running(deployment)
    await running.ready()
    yield running
    os.kill(os.getpid(), signal.SIGTERM)
    await running.task


def children() -> set[str]:
    """Stand-ins of this process that are alive."""
    found = set()
    for tasks in Path("/proc/self/task").glob("*/children"):
        for pid in tasks.read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if FAKE.encode() in words:
                found.add(words[2].decode())
    return found


async def read(url: str) -> str:
    def get() -> str:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(get)


async def test_is_ready_when_the_router_serves_and_leaves_nothing_behind(deployment, fakes):
    async with run(deployment) as running:
        assert children() == {"router", "tokenizer", "model", "detokenizer"}
        async with open_channel(running.lines[0].removeprefix("ready on ")) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        folder = Path(fakes[1].address.removeprefix("unix:")).parent
        assert folder.stat().st_mode & 0o777 == 0o700

    assert children() == set()
    assert not folder.exists()


async def test_the_router_stops_before_the_others(deployment):
    async with run(deployment) as running:
        pass

    stops = [line for line in running.stderr.getvalue().splitlines() if "is stopping" in line]
    assert stops[0] == "router is stopping"
    assert len(stops) == 4


async def test_shows_logs_progress_and_plain_lines(deployment):
    async with run(deployment) as running:
        pass

    shown = running.stderr.getvalue().splitlines()
    assert "a plain line of the tokenizer" in shown
    assert any("info" in line and "router" in line and "listening" in line for line in shown)
    loading = [line for line in shown if line.startswith("loading weights")]
    assert [line.split()[2] for line in loading] == ["25", "50", "100"]


async def test_a_service_that_cannot_start_ends_all_with_its_reason(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_ROUTER", "silent")
    monkeypatch.setenv("FAKE_TOKENIZER", "refuse")

    running = Running(deployment)
    with pytest.raises(StartError, match=r"^tokenizer: no tokenizer\.json in the checkpoint;"):
        await running.task

    assert children() == set()
    shown = running.stderr.getvalue().splitlines()
    assert not [line for line in shown if line.endswith("router      stopping")]


async def test_a_service_that_dies_later_ends_all_and_is_named(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_MODEL", "vanish")
    running = Running(deployment)
    await running.ready()

    await read(running.metrics_url)

    with pytest.raises(ServiceLost, match="the model ended with exit code 3"):
        await running.task
    assert children() == set()


async def test_a_port_in_use_is_said_in_one_line(deployment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(StartError, match=rf"^router: cannot listen on 127\.0\.0\.1:{port}"):
            await Running(replace(deployment, listen=f"127.0.0.1:{port}")).task


async def test_a_metrics_port_in_use_stops_before_anything_starts(deployment):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        running = Running(replace(deployment, metrics_listen=address))

        with pytest.raises(StartError, match=f"cannot serve metrics on {address}"):
            await running.task

    assert running.stderr.getvalue() == ""


async def test_the_usual_metrics_port_gives_way_where_nobody_asked_for_it(deployment, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(module.addresses, "METRICS", address)
        async with run(replace(deployment, metrics_listen=None)) as running:
            assert address not in running.metrics_url
            assert "triptych_service_up" in await read(running.metrics_url)

    assert f"{address} is taken" in running.stderr.getvalue()


async def test_metrics_of_all_services_are_labelled_and_merged(deployment):
    async with run(deployment) as running:
        text = await read(running.metrics_url)

    families = {family.name: family for family in text_string_to_metric_families(text)}
    services = {"router", "tokenizer", "model", "detokenizer"}
    for name in ("fake_things", "triptych_service_up"):
        assert {sample.labels["service"] for sample in families[name].samples} == services
    assert {sample.value for sample in families["fake_things"].samples} == {7.0}
    assert {sample.value for sample in families["triptych_service_up"].samples} == {1.0}
    assert text.count("# TYPE fake_things ") == 1


async def test_a_signal_before_it_is_ready_stops_all(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_ROUTER", "silent")
    running = Running(deployment)
    await running.started.wait()

    os.kill(os.getpid(), signal.SIGINT)
    await running.task

    assert running.lines == []
    assert children() == set()


async def test_a_service_that_will_not_end_is_killed(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_DETOKENIZER", "stubborn")

    async with run(replace(deployment, grace_s=1.0)):
        pass

    assert children() == set()
