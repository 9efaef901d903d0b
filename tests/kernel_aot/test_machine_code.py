"""Every kernel, launched as models launch it, becomes the machine code that its table expects.

The tables are the files `expected_*.py` beside this one, each a list of calls named `EXPECTED`.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from support.kernels.ahead_of_time import GFX_942, SM_80, SM_100, Expected, compiling, complaints
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import kernels.triton
from kernels.triton import configs

EXPECTED: list[Expected] = [
    expected
    for path in sorted(Path(__file__).parent.glob("expected_*.py"))
    for expected in import_module(f"kernel_aot.{path.stem}").EXPECTED
]
ELSEWHERE = {"sm_80": SM_80, "sm_100": SM_100, "gfx942": GFX_942}
# The launches without a file, then those that were tuned for each GPU.
GPUS = ["none", *sorted({path.name.split(".")[1] for path in configs.FOLDER.glob("*.json")})]

each_call = pytest.mark.parametrize("expected", EXPECTED, ids=str)


@pytest.mark.parametrize("gpu", GPUS)
@each_call
def test_machine_code_is_as_expected(
    expected: Expected, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configs, "gpu_name", lambda: gpu)

    assert complaints(expected) == []


@pytest.mark.parametrize("target", ELSEWHERE.values(), ids=ELSEWHERE)
@pytest.mark.parametrize("expected", [each for each in EXPECTED if each.elsewhere], ids=str)
def test_kernels_compile_for_other_gpus(expected: Expected, target: GPUTarget) -> None:
    with compiling(target) as launches:
        expected.call()

    assert {launch.kernel for launch in launches} == set(expected.kernels)


def test_no_kernel_is_missing_from_the_tables() -> None:
    modules = [
        import_module(module.name)
        for module in pkgutil.walk_packages(kernels.triton.__path__, "kernels.triton.")
    ]
    named = {
        value.fn.__name__
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and name.endswith("_kernel")
    }

    assert named == {kernel for expected in EXPECTED for kernel in expected.kernels}
