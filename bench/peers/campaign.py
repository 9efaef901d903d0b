"""The measurement itself: servers take turns on each model, in an order that rotates by rounds.

Invariant: one server runs at a time, each in a state it has just started into; what failed is in
the results by name, never left out in silence.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from bench.peers.checkpoints import prompts
from bench.peers.load.generator import Task
from bench.peers.peak import limits
from bench.peers.running import (
    LoadProcess,
    PeerFailed,
    Running,
    free_port,
    load_process,
    machine_cpu,
    served,
)
from bench.peers.servers.registry import Server, Site, launch, taking_part
from bench.peers.servers.stages import StageFailed
from bench.peers.workloads import Cell, Workload

Json = dict[str, Any]
OnRun = Callable[[Json], None]
Key = tuple[str, int, str]


@dataclass(frozen=True)
class Plan:
    """Plan of one campaign.

    Attributes:
        root: folder of the built peers.
        servers: who takes part.
        rounds: turns each of them gets.
        peak: whether the machine's limits are taken in each round.
        done: turns that are left out, by `key`.
    """

    root: Path
    servers: tuple[Server, ...]
    rounds: int
    peak: bool
    done: frozenset[Key] = frozenset()


def key(turn: Json) -> Key:
    """Identity of a turn: model, round, and server or `limits`."""
    return turn["model"], turn["round"], turn.get("server", "limits")


def rotated(servers: Sequence[Server], by: int) -> list[Server]:
    """The order of round `by`: each begins as often, each follows another."""
    places = range(len(servers))
    return [servers[(place + by) % len(servers)] for place in places]


def measure(
    plan: Plan, workload: Workload, checkpoint: Path, cells: Sequence[Cell], on_run: OnRun
) -> None:
    """Measure all servers on one model.

    Args:
        plan: who and how often.
        workload: the model.
        checkpoint: its folder.
        cells: the load.
        on_run: gets each server's turn, and each look at the machine's limits, as it is done.
    """
    servers = taking_part(plan.servers, workload)
    for number in range(plan.rounds):
        turn = {"model": workload.name, "round": number}
        if plan.peak and key(turn) not in plan.done:
            on_run({**turn, "limits": limits(plan.root)})
        for server in rotated(servers, number):
            turn = {"model": workload.name, "round": number, "server": server.name}
            if key(turn) in plan.done:
                continue
            print(f"{workload.title}, round {number + 1}: {server.name}", file=sys.stderr)
            wanted = [cell for cell in cells if not server.quantization or cell.streams == 1]
            on_run({**turn, **_turn(plan, server, checkpoint, wanted)})


def _turn(plan: Plan, server: Server, checkpoint: Path, cells: Sequence[Cell]) -> Json:
    """Start a server, put all loads on it, stop it."""
    site = Site(
        plan.root,
        checkpoint,
        sorted(os.sched_getaffinity(0)),
        max(cell.streams for cell in cells),
        free_port(),
    )
    log = plan.root / "logs" / f"{checkpoint.name}-{server.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        start = launch(server, site)
        with (
            log.open("wb") as output,
            load_process(server.speech) as load,
            served(start, site.port, output) as running,
        ):
            return _loads(running, site, load, cells)
    except (PeerFailed, StageFailed) as failure:
        return {"failure": f"{failure}; its log is {log.relative_to(plan.root)}"}


def _loads(running: Running, site: Site, load: LoadProcess, cells: Sequence[Cell]) -> Json:
    address = f"127.0.0.1:{site.port}"
    first_prompt, tasks = tasks_of(cells, address, site.checkpoint)
    first = load.run(Task(address, 1, 1, (first_prompt,)))
    found: Json = {"start_s": first["first_message_at_s"] - running.started_at_s, "cells": {}}
    for cell, task in zip(cells, tasks, strict=True):
        found["cells"][cell.name] = figures = _watched(running, load, task)
        rate, ttft = figures["output_tokens_per_s"], figures["ttft_ms"]["p50"]
        print(f"  {cell.name}: {rate:.1f} tokens/s, TTFT {ttft or 0:.1f} ms", file=sys.stderr)
    found["resident_mib"] = running.resident_mib()
    return found


def tasks_of(cells: Sequence[Cell], address: str, checkpoint: Path) -> tuple[str, list[Task]]:
    """A first prompt, and a task for each cell; no prompt comes twice, for warming up neither."""
    counts = Counter({False: 1})
    for cell in cells:
        counts[cell.long_prompts] += cell.streams + cell.requests
    texts = {long: iter(prompts(checkpoint, count, long=long)) for long, count in counts.items()}
    first = next(texts[False])
    tasks = []
    for cell in cells:
        mine = texts[cell.long_prompts]
        warm_up = tuple(islice(mine, cell.streams))
        chosen = tuple(islice(mine, cell.requests))
        tasks.append(Task(address, cell.streams, cell.output_tokens, chosen, warm_up))
    return first, tasks


def _watched(running: Running, load: LoadProcess, task: Task) -> Json:
    """One cell's figures, and what share of the cores others used meanwhile."""
    machine, started = machine_cpu(), time.perf_counter()
    server, client = running.cpu_s(), load.cpu_s()
    figures = load.run(task)
    all_cores_s = (time.perf_counter() - started) * len(os.sched_getaffinity(0))
    used, server_s = machine_cpu() - machine, running.cpu_s() - server
    others_s = used.busy_s - server_s - (load.cpu_s() - client)
    return {
        **figures,
        "server_cpu_s": server_s,
        "others_share": max(0.0, others_s) / all_cores_s,
        "stolen_share": used.stolen_s / all_cores_s,
    }


def disturbed(turn: Json, share: float) -> bool:
    """True if others used more than `share` of the cores, in a turn's median cell."""
    watched = [turn["limits"]] if "limits" in turn else turn.get("cells", {}).values()
    shares = [one["others_share"] for one in watched]
    return bool(shares) and statistics.median(shares) > share
