"""`triptych status`, against a server of the tests' own that names a link nobody answers at."""

import json
import os

from rich.console import Console
from typer.testing import CliRunner

from triptych.cli import app
from triptych.commands import output


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
    assert (
        "recovery: 0 resubmitted, 0 registered again, 0 replayed, 0 fenced"
        in ended.stdout.splitlines()
    )


def test_people_see_which_service_is_away_and_how_often_each_was_started_again(server):
    rows = [line.split() for line in status("--address", server.address).stdout.splitlines()]

    assert rows[0] == ["service", "health", "pid", "up", "restarts", "transport", "address"]
    router, tokenizer = rows[1:3]
    assert router[:2] == ["router", "ready"]
    assert router[4] == "0"
    assert tokenizer[:5] == ["tokenizer", "away", "-", "-", "-"]


def test_a_narrow_terminal_gets_the_addresses_apart_and_whole(server, monkeypatch):
    monkeypatch.setattr(output, "console", lambda: Console(width=80, highlight=False))

    lines = status("--address", server.address).stdout.splitlines()

    rows = [line.split() for line in lines]
    assert rows[0] == ["service", "health", "pid", "up", "restarts", "transport"]
    assert rows[1][:2] == ["router", "ready"]
    assert ["service", "address"] in rows
    assert ["tokenizer", "unix:/nowhere/tokenizer.sock"] in rows


def test_nobody_there_is_one_line(nobody):
    ended = status("--address", nobody)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")
