"""A plot: its title, the machine that it names, and its format."""

from pathlib import Path

import pytest

from chassis.errors import StartError
from triptych.client import Model
from triptych.load import machine
from triptych.load.bench import BenchPlan, Report
from triptych.load.plot import require_format


def test_the_title_names_model_dtype_machine_and_load():
    model = Model("demo", "Fake", 512, 256, 1, "bfloat16", "0")
    plan = BenchPlan(address="127.0.0.1:1", prompt_tokens=5, max_tokens=7)

    title = Report(model, plan, (), "a machine").title

    assert title == "demo in bfloat16 on a machine\n5 prompt tokens, 7 output tokens"


@pytest.mark.parametrize("info", ["model name\t: Fast CPU 9\nflags: a\nmodel name\t: Other\n"])
def test_a_machine_is_its_cpu_and_cores(info, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1})

    assert machine.describe("localhost:1") == "Fast CPU 9, 2 cores"
    assert machine.describe("unix:/a") == machine.describe("[::1]:1") == "Fast CPU 9, 2 cores"
    assert machine.describe("10.0.0.1:1") == (
        "a server at 10.0.0.1:1, asked from Fast CPU 9, 2 cores"
    )


def test_a_cpu_without_a_name_is_its_architecture(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "_CPU_INFO", tmp_path / "nothing")
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0})

    assert machine.describe("localhost:1") == "aarch64 CPU, 1 core"


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.svg", "a"])
def test_a_format_that_can_be_drawn_is_taken(name):
    pytest.importorskip("matplotlib")
    require_format(Path(name))


def test_a_format_that_nobody_draws_is_refused_with_those_that_are_drawn():
    pytest.importorskip("matplotlib")
    with pytest.raises(StartError, match=r"--plot: cannot draw a \.txt file; use \.png or .*svg"):
        require_format(Path("a.txt"))
