"""A soak is judged by pauses, failures, processes that ended, and memory that grew."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.deployment import Deployment
from bench.soak.__main__ import MOST_GAP_S, MOST_GROWTH_MIB, Memory, _judge
from bench.soak.inputs import INPUTS
from bench.soak.ordinary import Seen

HERE = Deployment("127.0.0.1:1", "http://127.0.0.1:2", 0.0, os.getpid())


def test_a_run_in_which_all_held_has_no_fault() -> None:
    seen = Seen(gaps_s=[0.01, MOST_GAP_S], checks_s=[0.001], streams=2)
    memory = Memory()
    for _ in range(8):
        memory.sample([os.getpid()])
    assert _judge(seen, memory, {"router": os.getpid()}, HERE) == []


def test_pauses_failures_and_ended_services_are_faults() -> None:
    seen = Seen(gaps_s=[2 * MOST_GAP_S], checks_s=[3 * MOST_GAP_S], failures=["stream: x"] * 2)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    assert _judge(seen, Memory(), {"model": gone.pid}, HERE) == [
        "stream: x",
        "the longest gap took 0.60 s",
        "the longest health check took 0.90 s",
        "the model ended",
    ]


def test_memory_above_what_settling_took_is_growth() -> None:
    memory = Memory({7: [100, 200, 150, 210], 8: [100, 100, 100, 101 + MOST_GROWTH_MIB]})
    assert memory.growth_mib() == {7: 110, 8: 1 + MOST_GROWTH_MIB}
    assert _judge(Seen(), memory, {}, HERE) == [
        "process 7 grew by 110 MiB",
        f"process 8 grew by {1 + MOST_GROWTH_MIB} MiB",
    ]


def test_a_process_that_has_ended_is_not_judged_by_its_memory() -> None:
    memory = Memory({7: [100, 900]})
    memory.sample([])
    assert _judge(Seen(), memory, {}, HERE) == []


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_can_be_made_and_names_a_method(name: str) -> None:
    one = INPUTS[name]
    assert one.method in {"Generate", "GenerateStream", "Tokenize", "Detokenize"}
    if not one.gzip:
        assert one.make()
