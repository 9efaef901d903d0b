"""A team of threads runs captured calls: to the bit what one thread gives, every time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.kernels.captured_layers import EPS, HEAD_DIM, HEADS, captured, step_of
from support.kernels.operations import compiled

from kernels.c.library import Library
from kernels.c.quantised import QuantisedLinear
from kernels.formats import WEIGHT_FORMATS
from kernels.ops import Operations

# A library that a test has built is sanitised, and many times slower.
REPLAYS = 50 if "TRIPTYCH_TEST_LIBRARY" in os.environ else 1000


@pytest.fixture
def operations(native_library: Library) -> Operations:
    return compiled(native_library)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def uneven_work(operations: Operations) -> Callable[[], torch.Tensor]:
    """Calls of many tasks, of a few and of one, none of which takes long."""
    step = step_of(torch.bfloat16)
    of, weight = step.attention, torch.randn(1024).bfloat16()
    up, down = (
        QuantisedLinear(operations.recorder, torch.randn(shape), None, WEIGHT_FORMATS["int8"])
        for shape in ((1024, HEADS * HEAD_DIM), (40, 512))
    )

    def compute() -> torch.Tensor:
        plan = operations.plan_attention(of.chunks, of.shape, torch.bfloat16)
        x = up(operations.attention(of.q, *step.caches(), plan).flatten(1))
        x, _ = operations.rms_norm(x, weight, EPS)
        return down(operations.silu_mul(operations.take_rows(x, step.ids)))

    return compute


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_team_of_threads_gives_the_same_every_time(
    operations: Operations, threads: Callable[[int], None], count: int
) -> None:
    compute = uneven_work(operations)
    want = compute()
    threads(count)
    taken = captured(operations, compute)
    for _ in range(REPLAYS):
        got = taken.replay()
        assert torch.equal(got, want)
        got.fill_(torch.nan)


def test_teams_of_different_sizes_take_turns(
    operations: Operations, threads: Callable[[int], None]
) -> None:
    compute = uneven_work(operations)
    want = compute()
    teams = []
    for count in (1, 2, 4):
        threads(count)
        teams.append(captured(operations, compute))
    for turn in range(REPLAYS // 20):
        threads(1 + turn % 2)
        assert torch.equal(compute(), want)
        assert all(torch.equal(taken.replay(), want) for taken in teams)


def test_teams_of_two_callers_at_once_keep_apart(
    native_library: Library, threads: Callable[[int], None]
) -> None:
    """As where two models are in one process; each caller has its own number of threads."""

    def replays(count: int) -> bool:
        threads(count)
        operations = compiled(native_library)
        compute = uneven_work(operations)
        want, taken = compute(), captured(operations, compute)
        return all(torch.equal(taken.replay(), want) for _ in range(REPLAYS // 5))

    with ThreadPoolExecutor(2) as callers:
        assert list(callers.map(replays, [2, 3])) == [True, True]
