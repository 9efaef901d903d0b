"""`triptych bench`, against a server of the tests' own."""

import builtins
import importlib.util
import json

import pytest
from typer.testing import CliRunner

from triptych.cli import app


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "200"})


def sent(server):
    """The requests that generated."""
    return [one for one in server.generation.requests if one.DESCRIPTOR.name == "GenerateRequest"]


@pytest.mark.parametrize(
    "spelling", [["2", "3"], ["2", "--concurrency", "3"]], ids=["listed", "repeated"]
)
def test_one_run_a_concurrency_and_all_figures_in_json(server, tmp_path, spelling):
    file = tmp_path / "figures.json"
    options = ["--address", server.address, "--requests", "6", "--json", str(file)]
    options += ["--prompt-tokens", "11", "--max-tokens", "4", "--warm-up", "0"]

    ended = bench(*options, "--concurrency", *spelling)

    assert ended.exit_code == 0
    runs = json.loads(file.read_text())["runs"]
    assert [(run["concurrency"], run["requests"], run["failures"]) for run in runs] == [
        (2, 6, {}),
        (3, 6, {}),
    ]
    for run in runs:
        assert run["output_tokens"] == 24
        assert run["messages_per_s"] == pytest.approx(run["output_tokens_per_s"])
        for name in ("ttft_ms", "tpot_ms", "end_to_end_ms"):
            assert 0 < run[name]["p50"] <= run[name]["p99"]


def test_prompts_have_the_exact_length_and_run_on_past_the_end_of_sequence(server):
    bench(
        "--address", server.address, "--requests", "2", "--prompt-tokens", "300", "--warm-up", "0"
    )

    for request in sent(server):
        assert len(request.token_ids.ids) == 300
        assert request.stop.ignore_eos
        assert request.stop.max_tokens == 128
    assert len({tuple(request.token_ids.ids) for request in sent(server)}) == 2


def test_a_trace_is_replayed_with_its_lengths_cut_to_the_context(server, tmp_path):
    trace = tmp_path / "trace.jsonl"
    rows = [(0, 10, 3), (10, 600, 100), (20, 20, 5)]
    trace.write_text(
        "".join(
            json.dumps({"timestamp": at, "input_length": i, "output_length": o}) + "\n"
            for at, i, o in rows
        )
    )

    ended = bench("--address", server.address, "--trace", str(trace), "--warm-up", "0")

    assert ended.exit_code == 0
    lengths = [(len(one.token_ids.ids), one.stop.max_tokens) for one in sent(server)]
    assert lengths == [(10, 3), (511, 1), (20, 5)]


def test_more_than_the_context_is_refused_with_both_numbers(server):
    ended = bench("--address", server.address, "--prompt-tokens", "500", "--max-tokens", "13")

    assert ended.exit_code == 1
    assert "513 tokens together; fake has a context of 512" in ended.stderr


def test_nobody_there_is_one_line(nobody):
    ended = bench("--address", nobody)

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")


def test_a_server_that_is_away_is_not_asked_again(server):
    server.generation.away = 1

    ended = bench("--address", server.address)

    assert ended.exit_code == 1
    assert "the tokenizer is away" in ended.stderr
    assert len(server.generation.heard) == 1


def test_a_plot_without_matplotlib_is_refused_before_the_load(server, monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)

    ended = bench("--address", server.address, "--plot", str(tmp_path / "x.png"))

    assert ended.exit_code == 1
    assert "pip install 'triptych[plot]'" in ended.stderr
    assert sent(server) == []


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs matplotlib")
def test_draws_a_picture(server, tmp_path):
    file = tmp_path / "figures.png"

    ended = bench("--address", server.address, "--concurrency", "1", "2", "--plot", str(file))

    assert ended.exit_code == 0
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_folder_that_is_not_there_is_said_before_the_load(server, option):
    ended = bench("--address", server.address, option, "/nowhere/x.png")

    assert ended.exit_code == 1
    assert "cannot write /nowhere/x.png" in ended.stderr
    assert server.generation.requests == []


def test_no_streams_are_refused(server):
    assert bench("--address", server.address, "--concurrency", "1", "0").exit_code == 2
