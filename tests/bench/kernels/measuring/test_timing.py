"""Times of calls, by a made-up clock."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import pytest
import torch
from support.fakes.bench import FakeBench, cpu

from bench.kernels.measuring.timing import gpu, sets_needed, time_calls


def test_operands_take_turns_in_each_measured_function() -> None:
    seen: list[int] = []
    bench = FakeBench()

    time_calls(cpu(bench), [lambda i=i: seen.append(i) for i in range(3)], rep_ms=7.0)

    assert seen == [0, 1, 2]
    assert bench.lengths_ms == [7.0]


def test_a_time_is_that_of_a_turn_over_its_calls_in_microseconds() -> None:
    bench = FakeBench([1.0 + i / 1000 for i in (10, 3, 5, 1, 8, 2, 6, 0, 9, 4, 7)])

    timing = time_calls(cpu(bench), [lambda: None] * 2, rep_ms=1.0)

    assert timing.median_us == pytest.approx(1005.0 / 2)
    assert (timing.p10_us, timing.p90_us) == pytest.approx((1001.0 / 2, 1009.0 / 2))


def test_operands_are_so_many_that_the_cache_is_moved_over_several_times() -> None:
    device = cpu(cache_bytes=60)

    assert sets_needed(device, 10) == 24
    assert sets_needed(device, 1000) == 2


def test_the_gpu_is_timed_by_tritons_function_for_cuda_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=60)
    )

    device = gpu()

    assert (device.kind, device.cache_bytes) == ("cuda", 60)
    inspect.signature(device.bench).bind(lambda: None, rep=1.0, return_mode="all")
