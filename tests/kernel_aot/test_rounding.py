"""The kernels of a draw round every operation by itself, as the CPU does.

A multiplication fused with an addition rounds once instead of twice, and one bit can turn a draw.
"""

# ruff: noqa: N803 (constants of a kernel are spelled so)

from __future__ import annotations

import re

import pytest
import torch
import triton
import triton.language as tl
from kernel_aot.expected_sampling import EXPECTED
from support.kernels.ahead_of_time import SM_80, SM_90, SM_100, Launch, compiling, meta
from triton.backends.compiler import GPUTarget

from kernels.triton.sampling.philox import gumbel

# A compiler may fuse what does not say how it rounds.
UNROUNDED = re.compile(r"\b(?:add|sub|mul)(?:\.ftz)?\.f(?:32|64)")
FUSED_WIDE = "fma.rn.f64"
FUSED = re.compile(r"\bfma\.rn\.f32")
DIVIDED_ROUGHLY = re.compile(r"\bdiv\.(?:full|approx)")
# Their bounds of the noise are rough on purpose; what they are compared with has a margin.
ROUGH = {"_scan_kernel", "_collect_kernel"}
DRAWS = [each for each in EXPECTED if each.name.startswith("sampling")]


@triton.jit
def _noise_kernel(words_ptr, noise_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    words = tl.load(words_ptr + at).to(tl.uint32, bitcast=True)
    tl.store(noise_ptr + at, gumbel(words))


def contracted(launch: Launch) -> list[str]:
    """What may be rounded less often than it is written."""
    ptx = launch.compiled.asm["ptx"]
    found = UNROUNDED.findall(ptx) + ptx.count(FUSED_WIDE) * [FUSED_WIDE]
    if launch.kernel not in ROUGH:
        found += FUSED.findall(ptx) + DIVIDED_ROUGHLY.findall(ptx)
    return found


@pytest.mark.parametrize("target", [SM_80, SM_90, SM_100], ids=["sm_80", "sm_90", "sm_100"])
def test_nothing_of_a_draw_is_contracted(target: GPUTarget) -> None:
    (draw,) = (each for each in DRAWS if "all filters and edits" in each.name)
    with compiling(target) as launches:
        draw.call()
    assert {launch.kernel for launch in launches} == set(draw.kernels)
    assert [(launch.kernel, contracted(launch)) for launch in launches if contracted(launch)] == []


@pytest.mark.parametrize("fused", [False, True])
def test_a_launch_that_allows_contraction_is_told(fused: bool) -> None:
    with compiling() as launches:
        _noise_kernel[(1,)](
            meta(256, dtype=torch.int32), meta(256, dtype=torch.float64), N=256,
            enable_fp_fusion=fused,
        )  # fmt: skip
    assert bool(contracted(launches[0])) == fused
