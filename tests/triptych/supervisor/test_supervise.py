"""The life of a deployment, with stand-ins for the services: real processes, real sockets."""

import os
import signal
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.fakes.deployments import SERVICES, Running, children, run

from chassis.errors import StartError
from chassis.links.channels import open_channel
from triptych.supervisor import supervise as module


async def test_is_ready_when_the_router_serves_and_leaves_nothing_behind(deployment, fakes):
    async with run(deployment) as running:
        assert children().keys() == set(SERVICES)
        async with open_channel(running.address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        folder = Path(fakes[1].address.removeprefix("unix:")).parent
        assert folder.stat().st_mode & 0o777 == 0o700

    assert children() == {}
    assert not folder.exists()


async def test_the_router_stops_first_and_the_model_after_all_that_work_with_it(deployment):
    async with run(deployment) as running:
        pass

    stops = [line for line in running.shown if "is stopping" in line]
    assert stops[0] == "router is stopping"
    assert stops[-1] == "model is stopping"
    assert len(stops) == 4


async def test_shows_logs_progress_and_plain_lines(deployment):
    async with run(deployment) as running:
        pass

    shown = running.shown
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

    assert children() == {}
    shown = running.shown
    assert not [line for line in shown if line.endswith("router      stopping")]


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

    assert running.shown == []


async def test_the_usual_metrics_port_gives_way_where_nobody_asked_for_it(deployment, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(module.addresses, "METRICS", address)
        async with run(replace(deployment, metrics_listen=None)) as running:
            assert address not in running.metrics_url
            assert "triptych_service_up" in await running.scrape()

    assert any(f"{address} is taken" in line for line in running.shown)


async def test_metrics_of_all_services_are_labelled_and_merged(deployment):
    async with run(deployment) as running:
        families = await running.scrape()

    for name in ("fake_things", "triptych_service_up"):
        samples = families[name].samples
        assert [sample.labels for sample in samples] == [{"service": one} for one in SERVICES]
    lost = families["triptych_log_lines_dropped"].samples
    assert [one.labels["service"] for one in lost] == ["supervisor", *SERVICES]
    assert {sample.value for sample in families["fake_things"].samples} == {7.0}
    assert {sample.value for sample in families["triptych_service_up"].samples} == {1.0}


async def test_samples_of_several_replicas_are_told_apart(deployment):
    async with run(replace(deployment, replicas=2)) as running:
        families = await running.scrape()

    for name in ("fake_things", "triptych_supervisor_restarts"):
        assert [sample.labels for sample in families[name].samples] == [
            {"service": "router"},
            {"service": "tokenizer"},
            {"service": "model", "replica": "0"},
            {"service": "model", "replica": "1"},
            {"service": "detokenizer", "replica": "0"},
            {"service": "detokenizer", "replica": "1"},
        ]


async def test_lines_of_several_replicas_are_told_apart_and_aligned(deployment):
    async with run(replace(deployment, replicas=2)) as running:
        pass

    named = [line for line in running.shown if " listening " in line]
    assert len({line.index(" listening ") for line in named}) == 1
    assert {line.split()[2] for line in named} >= {"router", "model/0", "model/1"}
    assert any(line.startswith("model/1 loading weights: 100 %") for line in running.shown)


async def test_a_signal_before_it_is_ready_stops_all(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_ROUTER", "silent")
    running = Running(deployment)
    await running.shows("")

    os.kill(os.getpid(), signal.SIGINT)
    await running.task

    assert running.lines == []
    assert children() == {}


async def test_a_service_that_will_not_end_is_killed(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_DETOKENIZER", "stubborn")

    async with run(replace(deployment, grace_s=1.0)):
        pass

    assert children() == {}


async def stops(running):
    """Lines that it says as it stops."""
    await running.task
    return [line for line in running.shown if " supervisor " in line]


async def test_a_first_signal_tells_how_long_requests_have(deployment, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_ROUTER_GRACE_S", "7")
    async with run(deployment) as running:
        pass

    (line,) = await stops(running)
    assert (
        "stopping: running requests have up to 7 s to end; Ctrl-C again ends them at once" in line
    )


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGQUIT,)])
async def test_what_is_killed_leaves_no_file_behind(deployment, monkeypatch, tmp_path, signals):
    for service in SERVICES:
        monkeypatch.setenv(f"FAKE_{service.upper()}", "stubborn")
    monkeypatch.setenv("FAKE_ROUTER", "serve")
    address = f"unix:{tmp_path / 'public.sock'}"
    running = Running(replace(deployment, listen=address, grace_s=60.0))
    assert await running.ready() == address
    memory = left_in_memory()
    assert len(memory) == len(SERVICES), "each stand-in has made one"
    await stop_hard(running, signals)

    assert children() == {}
    assert not [path for path in memory if path.exists()]
    assert not (tmp_path / "public.sock").exists()


async def stop_hard(running, signals):
    first, *more = signals
    os.kill(os.getpid(), first)
    if more:
        await running.shows("model +stopping|model is stopping|tokenizer is stopping")
    for number in more:
        os.kill(os.getpid(), number)
    await running.task


def left_in_memory():
    """The files in shared memory that the children of this process hold open."""
    pids = [pid for listed in children().values() for pid in listed]
    links = [link for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()]
    targets = {Path(os.readlink(link)) for link in links}
    return [target for target in targets if target.parent == Path("/dev/shm")]


async def test_a_hangup_is_ignored_where_it_was_before(deployment):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with run(deployment) as running:
            os.kill(os.getpid(), signal.SIGHUP)
            assert "triptych_service_up" in await running.scrape()
            assert not running.task.done()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(await stops(running)) == 1


async def test_a_folder_that_nothing_is_imported_from_is_told(deployment, monkeypatch, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}:{shared}")
    async with run(deployment) as running:
        pass

    told = [line for line in running.shown if "nothing is imported from" in line]
    assert told[0].endswith(f"{shared}: other users may write to {shared}")
