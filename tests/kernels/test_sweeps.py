"""A part of a sweep has every value at every level, and a seed makes it the same again."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from support.kernels.sweeps import part_of_sweeps

LEVELS = ("portable", "avx2")
SIZES, DTYPES = range(9), range(3)


@dataclass
class Call:
    params: dict[str, object]


@dataclass
class Collected:
    nodeid: str
    callspec: Call = field(default_factory=lambda: Call({}))


def sweep() -> list[Collected]:
    return [
        Collected(
            f"test.py::test[{level}-{size}-{dtype}]",
            Call({"native_operations": level, "size": size, "dtype": dtype}),
        )
        for level, size, dtype in product(LEVELS, SIZES, DTYPES)
    ]


def test_every_value_is_tried_at_every_level_in_few_tests() -> None:
    chosen = part_of_sweeps(sweep(), 1)

    for level in LEVELS:
        own = [
            test.callspec.params
            for test in sweep()
            if test.nodeid in chosen and level in test.nodeid
        ]
        assert {params["size"] for params in own} == set(SIZES)
        assert {params["dtype"] for params in own} == set(DTYPES)
        assert len(own) <= len(SIZES) + len(DTYPES)


def test_a_seed_makes_the_same_choice_in_any_order() -> None:
    choices = [part_of_sweeps(sweep(), seed) for seed in range(20)]

    assert [part_of_sweeps(sweep()[::-1], seed) for seed in range(20)] == choices
    assert len(set(map(frozenset, choices))) > 10


def test_tests_without_a_level_are_chosen_all() -> None:
    plain = [Collected("a"), Collected("b[1]", Call({"size": 1}))]

    assert part_of_sweeps(plain, 1) == {"a", "b[1]"}
