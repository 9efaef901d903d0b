"""Every case works as it stands, at a size that the interpreter can take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from support.fakes.bench import FakeBench, cpu

from bench.kernels.cases.all_cases import CASES
from bench.kernels.cases.case import OURS, Case
from bench.kernels.measuring.worker import measure
from kernels.triton.configs import Config, forced

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
PEERS_HERE = ("SDPA flash", "FlexAttention")


def test_names_differ() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(autouse=True)
def small_tiles() -> Iterator[None]:
    """What is interpreted takes as long as its tiles are large."""
    small = Config({"BLOCK": 128}, num_warps=4)
    with ExitStack() as launches:
        for kernel in ("log_probabilities", "sampling_tile"):
            launches.enter_context(forced(kernel, small))
        yield


@each_case
def test_our_result_is_the_oracles_and_is_timed(case: Case) -> None:
    bench = FakeBench()

    figures = measure(cpu(bench), replace(case, make=case.tiny), OURS, 1.0)

    assert "failed" not in figures
    assert figures["error"] <= case.tolerance
    assert figures["bytes"] > 0
    assert bench.lengths_ms == [1.0]


@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize(
    ("case", "peer"),
    [(case, peer) for case in CASES for peer in case.peers if peer in PEERS_HERE],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_a_peers_result_is_the_oracles(
    case: Case, peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not compiled, which takes a C++ compiler and a minute.
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    figures = measure(cpu(), replace(case, make=case.tiny), peer, 1.0)

    assert "failed" not in figures, figures
