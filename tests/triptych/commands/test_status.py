"""`triptych status`, against a server of the tests' own that names a link nobody answers at."""

import json
import os

from rich.console import Console
from typer.testing import CliRunner

from triptych import deployment_status
from triptych.cli import app
from triptych.client import Load
from triptych.commands import output
from triptych.deployment_status import DeploymentStatus, ServiceState
from triptych.recovery import Recovery


def status(*arguments):
    return CliRunner().invoke(app, ["status", *arguments], env={"COLUMNS": "200"})


def test_json_tells_services_models_slots_and_load(server):
    ended = status("--address", server.address, "--json")

    assert ended.exit_code == 0
    told = json.loads(ended.stdout)
    assert told.keys() == {
        "services",
        "models",
        "kv_slots",
        "queued",
        "running",
        "replicas",
        "recovery",
    }
    assert [one["name"] for one in told["models"]] == ["fake"]
    assert told["kv_slots"] == {"used": 16, "total": 64}
    assert (told["queued"], told["running"]) == (3, 2)
    assert told["replicas"][0]["address"] == "unix:/nowhere/model.sock"


def test_a_service_that_answers_is_told_with_its_process(server):
    router = json.loads(status("--address", server.address, "--json").stdout)["services"][0]

    assert router.pop("uptime_s") > 0
    assert router == {
        "name": "router",
        "address": server.address,
        "ready": True,
        "pid": os.getpid(),
        "transport": None,
        "replica": None,
        "restarts": 0,
    }


def test_a_service_out_of_reach_is_told_as_the_router_sees_it(server):
    tokenizer = json.loads(status("--address", server.address, "--json").stdout)["services"][1]

    assert tokenizer == {
        "name": "tokenizer",
        "address": "unix:/nowhere/tokenizer.sock",
        "ready": False,
        "pid": None,
        "transport": "shared-memory",
        "uptime_s": None,
        "replica": None,
        "restarts": None,
    }


def test_people_see_health_pids_and_free_slots(server):
    ended = status("--address", server.address)

    assert ended.exit_code == 0
    assert str(os.getpid()) in ended.stdout
    assert "KV slots: 16 used, 48 free of 64" in ended.stdout
    assert "requests: 3 queued, 2 running" in ended.stdout


def test_people_see_which_service_is_away(server):
    rows = [line.split() for line in status("--address", server.address).stdout.splitlines()]

    assert rows[0] == ["service", "health", "pid", "up", "transport", "address"]
    router, tokenizer = rows[1:3]
    assert router[:2] == ["router", "ready"]
    assert tokenizer[:4] == ["tokenizer", "away", "-", "-"]


def state(name, *, ready=True, reached=True, restarts=0):
    uptime_s, restarts = (1.0, restarts) if reached else (None, None)
    return ServiceState(name, "unix:/a", ready, None, None, uptime_s, None, restarts)


def shown(monkeypatch, *services, load=None, **recovery):
    """Print the status of a deployment; return the text and the exit code."""
    seen = DeploymentStatus(services, (), load or Load(0, 0, 0, 64, ()), Recovery(**recovery))

    async def take(_address):
        return seen

    monkeypatch.setattr(deployment_status, "collect", take)
    ended = status()
    return ended.stdout.splitlines(), ended.exit_code


def test_what_is_zero_is_not_told(monkeypatch):
    lines, code = shown(monkeypatch, state("router"), state("model"))

    assert code == 0
    assert lines[0].split() == ["service", "health", "pid", "up", "transport", "address"]
    assert lines[-2:] == ["KV slots: 64 free of 64", "requests: none"]


def test_restarts_and_recoveries_are_told_where_there_were_any(monkeypatch):
    lines, _ = shown(
        monkeypatch, state("router"), state("model", restarts=3), replays=2, fenced_rows=5
    )

    assert lines[0].split()[4] == "restarts"
    assert lines[1].split()[4] == "-"
    assert lines[2].split()[4] == "3"
    assert lines[-1] == "recovery: 2 replayed, 5 fenced"


def test_a_deployment_that_loads_is_said_to_and_ends_with_1(monkeypatch):
    lines, code = shown(
        monkeypatch,
        state("router", ready=False),
        state("tokenizer"),
        state("model", ready=False),
        load=Load(0, 0, 0, 0, ()),
    )

    assert code == 1
    assert lines[3].split()[:2] == ["model", "loading"]
    assert lines[-1].startswith("loading (model not ready)")
    assert not any(line.startswith("KV slots") for line in lines)


def test_services_that_only_the_router_reaches_are_told_as_such(monkeypatch):
    lines, code = shown(
        monkeypatch, state("router"), state("tokenizer", reached=False), state("model")
    )

    assert code == 0
    assert lines[2].split()[:2] == ["tokenizer", "ready"]
    assert lines[-1].startswith("Not reachable from here: tokenizer. ")
    assert "behind a proxy" in lines[-1]


def test_a_router_behind_a_proxy_is_told_without_its_services(monkeypatch):
    lines, code = shown(monkeypatch, state("router", reached=False))

    assert code == 0
    assert lines[-1].startswith("A proxy hides the services")


def test_a_narrow_terminal_gets_the_addresses_apart_and_whole(server, monkeypatch):
    monkeypatch.setattr(output, "console", lambda: Console(width=60, highlight=False))

    lines = status("--address", server.address).stdout.splitlines()

    rows = [line.split() for line in lines]
    assert rows[0] == ["service", "health", "pid", "up", "transport"]
    assert rows[1][:2] == ["router", "ready"]
    assert ["service", "address"] in rows
    assert ["tokenizer", "unix:/nowhere/tokenizer.sock"] in rows


def test_nobody_there_is_one_line(nobody):
    ended = status("--address", nobody)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")
