"""`triptych status`, against a server of the tests' own that names a link nobody answers at."""

import json
import os

from typer.testing import CliRunner

from triptych.cli import app


def status(*arguments):
    return CliRunner().invoke(app, ["status", *arguments], env={"COLUMNS": "200"})


def test_json_tells_services_models_slots_and_load(server):
    ended = status("--address", server.address, "--json")

    assert ended.exit_code == 0
    told = json.loads(ended.stdout)
    assert told.keys() == {"services", "models", "kv_slots", "queued", "running", "replicas"}
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
    }


def test_people_see_health_pids_and_free_slots(server):
    ended = status("--address", server.address)

    assert ended.exit_code == 0
    assert str(os.getpid()) in ended.stdout
    assert "not ready" in ended.stdout
    assert "KV slots: 16 used, 48 free of 64" in ended.stdout
    assert "requests: 3 queued, 2 running" in ended.stdout


def test_nobody_there_is_one_line(nobody):
    ended = status("--address", nobody)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")
