"""Services that end by themselves are started again, with stand-ins for them."""

import os
import signal
import socket
import sys
from dataclasses import replace

import pytest
from support.fakes.deployments import SERVICES, Running, children, run

from triptych.supervisor import supervise as module

STARTED_AGAIN = "ended, starting it again"


class Never:
    """A backoff that would wait for longer than any test."""

    def after(self, lived_s):
        return 3600.0


def told_again(running, service):
    return running.shows(rf" {service} +{STARTED_AGAIN} ")


async def values(running, family):
    samples = (await running.scrape())[family].samples
    return {sample.labels["service"]: sample.value for sample in samples}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_service_is_started_again_and_the_others_go_on(deployment, service):
    async with run(deployment) as running:
        before = children()
        os.kill(before[service][0], signal.SIGKILL)
        await running.shows(" listening ", 5)
        after = children()

        assert after.keys() == before.keys()
        assert {one for one in SERVICES if after[one] != before[one]} == {service}
        for family in ("triptych_supervisor_restarts", "triptych_process_restarts"):
            assert await values(running, family) == dict.fromkeys(SERVICES, 0) | {service: 1}

    (line,) = await told_again(running, service)
    assert line.endswith("restarts=1 cause=killed by SIGKILL")
    assert len([line for line in running.lines if line.startswith("ready on ")]) == 1


async def test_a_service_that_ends_in_good_order_is_started_again_too(deployment):
    async with run(deployment) as running:
        os.kill(children()["model"][0], signal.SIGTERM)
        await running.shows(" listening ", 5)

    (line,) = await told_again(running, "model")
    assert line.endswith("cause=exit code 0")


async def test_a_router_that_is_started_again_listens_where_it_was_announced(deployment):
    async with run(deployment) as running:
        for starts in (2, 3):
            os.kill(children()["router"][0], signal.SIGKILL)
            listens = await running.shows("router +listening ", starts)

    assert {line.rpartition("address=")[2] for line in listens} == {running.address}


async def test_a_router_whose_port_is_taken_meanwhile_waits_for_it(deployment, monkeypatch):
    async with run(deployment) as running:
        host, _, port = running.address.rpartition(":")
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        start = module.Child.run

        async def run_child(child):
            if child.restarts == 1:  # the port is free, and the router not there yet
                taken.bind((host, int(port)))
                taken.listen()
            return await start(child)

        monkeypatch.setattr(module.Child, "run", run_child)
        os.kill(children()["router"][0], signal.SIGKILL)
        refused = await running.shows(rf"{STARTED_AGAIN} restarts=2 .*cannot listen on ")
        taken.close()
        await running.shows("router +listening ", 2)

    assert f"127.0.0.1:{port}" in refused[0]


async def test_one_that_keeps_ending_waits_ever_longer_and_says_why(deployment, monkeypatch):
    monkeypatch.setenv("FAKE_TOKENIZER", "fail")
    async with run(deployment) as running:
        os.kill(children()["tokenizer"][0], signal.SIGKILL)
        lines = await running.shows(STARTED_AGAIN, 4)
        assert (await values(running, "triptych_service_up"))["tokenizer"] == 0.0

    told = [line.partition(" restarts=")[2] for line in lines[:4]]
    reason = "no tokenizer.json in the checkpoint; save the tokenizer there"
    assert told == [
        "1 cause=killed by SIGKILL",
        f"2 delay_s=0.1 cause={reason}",
        f"3 delay_s=0.2 cause={reason}",
        f"4 delay_s=0.4 cause={reason}",
    ]


async def test_one_that_cannot_even_be_started_is_tried_again(deployment, monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    plan = module.plan

    def plan_with_link(*args, **options):
        return [
            replace(one, command=(str(python), *one.command[1:]))
            if one.service == "detokenizer"
            else one
            for one in plan(*args, **options)
        ]

    monkeypatch.setattr(module, "plan", plan_with_link)
    async with run(deployment) as running:
        python.unlink()
        os.kill(children()["detokenizer"][0], signal.SIGKILL)
        await running.shows(r"cause=cannot start it: No such file or directory")
        python.symlink_to(sys.executable)
        await running.shows(" listening ", 5)


async def test_a_signal_during_a_backoff_stops_all_at_once(deployment, monkeypatch):
    monkeypatch.setattr(module, "RestartBackoff", Never)
    async with run(deployment) as running:
        os.kill(children()["model"][0], signal.SIGKILL)
        await told_again(running, "model")

    assert children() == {}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_signal_while_a_service_starts_again_stops_it_too(deployment, monkeypatch, service):
    running = Running(deployment)
    await running.ready()
    start = module.Child.run

    async def run_child(child):
        if child.restarts:
            os.kill(os.getpid(), signal.SIGINT)
        return await start(child)

    monkeypatch.setattr(module.Child, "run", run_child)
    os.kill(children()[service][0], signal.SIGKILL)
    await running.task

    assert children() == {}
    assert len(await running.shows(STARTED_AGAIN)) == 1
