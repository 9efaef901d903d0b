"""Logarithms and exponentials have the bits that the CPU finds."""

# ruff: noqa: N803 (constants of a kernel are spelled so)

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from kernels import portable_math
from kernels.triton.sampling.portable_math import fixed_exp, log

SIZE = 8192


@triton.jit
def log_kernel(x_ptr, out_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out_ptr + at, log(tl.load(x_ptr + at)))


@triton.jit
def exp_kernel(x_ptr, out_ptr, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out_ptr + at, fixed_exp(tl.load(x_ptr + at)))


def test_log_has_the_cpus_bits(device: str) -> None:
    random = np.random.default_rng(0)
    edges = [1.0, np.sqrt(0.5), 2.0**-1022, np.finfo(np.float64).max, *(2.0 ** np.arange(-50, 50))]
    beside = np.nextafter(edges[:2], 0)
    rest = np.exp(random.uniform(-700, 700, SIZE - len(edges) - len(beside)))
    x = np.concatenate([edges, beside, rest])
    out = torch.full((SIZE,), torch.nan, dtype=torch.float64, device=device)
    log_kernel[(1,)](torch.from_numpy(x).to(device), out, N=SIZE, enable_fp_fusion=False)
    assert (out.cpu().numpy().view(np.int64) == portable_math.log(x).view(np.int64)).all()


def test_exp_has_the_cpus_units(device: str) -> None:
    random = np.random.default_rng(0)
    halves = -np.log(2.0) * np.arange(0, 40, 0.5)  # where rounding to a power of two turns
    edges = np.array([0.0, -0.0, -np.inf, -1e30, -1e-45, -22.0, -23.0], np.float32)
    beside = np.nextafter(halves.astype(np.float32), np.float32(-np.inf))
    rest = -random.uniform(0, 30, SIZE - len(edges) - 2 * len(halves))
    x = np.concatenate([edges, halves, beside, rest]).astype(np.float32)
    out = torch.full((SIZE,), -1, dtype=torch.int64, device=device)
    exp_kernel[(1,)](torch.from_numpy(x).to(device), out, N=SIZE, enable_fp_fusion=False)
    assert out.cpu().numpy().tolist() == portable_math.fixed_exp(x).tolist()
