"""How calls are timed, on a GPU that only counts."""

from __future__ import annotations

from support.fakes.bench import Cpu

from bench.kernels.timing import Pace, sets_needed, time_calls


def counted(calls: int) -> tuple[list, list[int]]:
    seen: list[int] = []
    return [lambda i=i: seen.append(i) for i in range(calls)], seen


def test_operands_take_turns_and_each_graph_holds_whole_turns() -> None:
    calls, seen = counted(3)

    timing = time_calls(Cpu(replay_us=30.0), calls, Pace(replays=5, graph_us=100.0))

    # A warm turn, a pilot's, then four turns: as many as 100 us need at 31 a turn.
    assert seen == [0, 1, 2] * 6
    assert timing.calls == 12
    assert timing.replays == 5


def test_a_time_is_the_median_graphs_over_its_calls() -> None:
    calls, _ = counted(2)

    timing = time_calls(Cpu(replay_us=1000.0), calls, Pace(replays=11, graph_us=1.0))

    assert timing.median_us == 1005.0 / 2
    assert (timing.p10_us, timing.p90_us) == (1001.0 / 2, 1009.0 / 2)


def test_a_graph_of_very_short_calls_is_not_endless() -> None:
    calls, _ = counted(3)

    assert time_calls(Cpu(replay_us=0.0), calls, Pace(replays=1)).calls == 399


def test_operands_are_so_many_that_the_cache_is_moved_over_several_times() -> None:
    device = Cpu(cache_bytes=60)

    assert sets_needed(device, 10) == 24
    assert sets_needed(device, 1000) == 2
