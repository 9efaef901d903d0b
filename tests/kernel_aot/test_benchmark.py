"""What `bench.kernels` measures is launched at full size, and tuned by the shapes that it names."""

from __future__ import annotations

import pytest
from support.kernels.ahead_of_time import Needs, compiling, measure

from bench.kernels.cases.all_cases import CASES
from bench.kernels.cases.case import OURS, Case, Place
from kernels.triton import configs

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_a_case_compiles_at_full_size_without_spills(case: Case) -> None:
    with compiling() as launches:
        case.make(Place("meta")).contenders[OURS]()()

    assert launches
    assert [Needs().unmet(measure(launch.compiled)) for launch in launches] == [
        [] for _ in launches
    ]


@each_case
def test_a_case_asks_for_the_launches_that_it_names(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}
    nearest = configs._nearest

    def note(
        kernel: str, gpu: str, triton: str, shape: tuple[tuple[str, int], ...]
    ) -> configs.Config:
        asked[kernel] = dict(shape)
        return nearest(kernel, gpu, triton, shape)

    monkeypatch.setattr(configs, "_nearest", note)
    with compiling():
        case.make(Place("meta")).contenders[OURS]()()

    named = {kernel: dict(shape) for kernel, shape in case.launches.items()}
    assert named == asked
