"""Compiles kernels for GPUs that are not here, and measures the machine code.

Launch wrappers run as they are, on meta tensors: what would be launched is compiled instead, with
the specialisation that real arguments of these shapes and strides get. Invariant: needs a process
in which Triton is not interpreted, and leaves Triton's driver as it found it.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

SM_80 = GPUTarget("cuda", 80, 32)
SM_90 = GPUTarget("cuda", 90, 32)
SM_100 = GPUTarget("cuda", 100, 32)
GFX_942 = GPUTarget("hip", "gfx942", 64)

# What sm_90 lets one program have: 227 KiB. The compiler does not hold it up, a launch would.
_SHARED_BYTES = 232_448
# What any GPU lets the second and third axis of a grid be.
_GRID_SIDE = 65_535


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch that was compiled instead."""

    kernel: str
    grid: tuple[int, ...]
    compiled: Any


@dataclass(frozen=True, slots=True)
class MachineCode:
    """What a kernel became, for NVIDIA GPUs."""

    registers: int
    """Of each thread."""
    stack_bytes: int
    """Of each thread: what did not fit into registers was spilled here."""
    shared_bytes: int
    """Of each program."""
    wgmma: int
    """Matrix products that a group of four warps does at once, from shared memory."""
    mma: int
    """Matrix products of one warp, from registers."""
    async_copies: int
    """Loads into shared memory that nobody waits for: what a pipelined loop is made of."""
    wide_loads: int
    """Loads of sixteen bytes a thread."""
    wide_stores: int
    """Stores of sixteen bytes a thread."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the machine code of one kernel must keep to: bounds above, then bounds below."""

    registers: int = 255
    stack_bytes: int = 0
    shared_bytes: int = _SHARED_BYTES
    wgmma: int = field(default=0, kw_only=True)
    async_copies: int = field(default=0, kw_only=True)
    wide_loads: int = field(default=0, kw_only=True)
    wide_stores: int = field(default=0, kw_only=True)

    def unmet(self, code: MachineCode) -> list[str]:
        """Say which bounds are not kept."""
        above = ("registers", "stack_bytes", "shared_bytes")
        found = []
        for name in (each.name for each in fields(self)):
            value, bound = getattr(code, name), getattr(self, name)
            if value > bound if name in above else value < bound:
                found.append(f"{name}: {value}, {'at most' if name in above else 'least'} {bound}")
        return found


@dataclass(frozen=True, slots=True)
class Expected:
    """A call of a launch wrapper on meta tensors, and what its kernels must be like on sm_90."""

    name: str
    call: Any
    """Takes nothing; what it returns is not looked at."""
    kernels: Mapping[str, Needs]
    """By name, each kernel that the call launches."""
    elsewhere: bool = False
    """Whether it is compiled for other GPUs too: one call of a kind is enough for that."""

    def __str__(self) -> str:
        return self.name


def meta(
    *shape: int, dtype: torch.dtype = torch.bfloat16, strides: tuple[int, ...] | None = None
) -> torch.Tensor:
    """A tensor without memory; contiguous where no strides are told."""
    if strides is None:
        return torch.empty(shape, dtype=dtype, device="meta")
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


class AbsentGpu:
    """Stands in for Triton's driver, which would look for a GPU."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return self._target

    def get_current_device(self) -> str:
        """Triton keeps what it compiled by device, so each target is one of its own."""
        return str(self._target)

    def get_current_stream(self, device: Any = None) -> int:
        """Nothing is launched on it."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Where a wrapper might make tensors."""
        return torch.device("meta")


@contextmanager
def compiling(target: GPUTarget = SM_90) -> Iterator[list[Launch]]:
    """Compile what is launched meanwhile, and collect it; nothing runs."""
    launches: list[Launch] = []
    compile_only = JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        compiled = compile_only(self, *args, grid=grid, warmup=True, **options)
        sides = grid if isinstance(grid, tuple) else ()
        launches.append(Launch(self.fn.__name__, sides, compiled))
        return compiled

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JITFunction, "run", run)
        patch.setattr(Autotuner, "run", _compile_every_config)
        # Not by its own method: taking a driver back that way needs a GPU.
        patch.setattr(triton.runtime.driver, "_active", AbsentGpu(target))
        yield launches


def _compile_every_config(self: Any, *args: Any, **options: Any) -> Any:
    self.nargs = dict(zip(self.arg_names, args, strict=False))
    compiled = None
    for config in self.prune_configs(options):
        compiled = self.fn.run(*args, **options, **config.all_kwargs())
    return compiled


def measure(compiled: Any) -> MachineCode:
    """Read what a kernel compiled for an NVIDIA GPU needs."""
    ptx = compiled.asm["ptx"]
    registers, stack_bytes = _resources(compiled.asm["cubin"])
    return MachineCode(
        registers=registers,
        stack_bytes=stack_bytes,
        shared_bytes=compiled.metadata.shared,
        wgmma=ptx.count("wgmma.mma_async"),
        mma=ptx.count("mma.sync"),
        async_copies=len(re.findall(r"cp\.async\.c[ag]", ptx)),
        wide_loads=len(re.findall(r"ld\.global[\w.:]*\.v(?:4\.b32|2\.b64)", ptx)),
        wide_stores=len(re.findall(r"st\.global[\w.:]*\.v(?:4\.b32|2\.b64)", ptx)),
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [tool, "-res-usage", file.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        ).stdout
    (usage,) = re.findall(r"REG:(\d+) STACK:(\d+)", shown)
    return int(usage[0]), int(usage[1])


def narrow_strides(compiled: Any) -> list[str]:
    """Strides by token, slot, column or dimension that a product of 32 bits is taken with.

    Such a product passes 2**31 elements where a tensor is large, by whichever stride.
    """
    code = compiled.asm["ttir"]
    # Each value that is a stride, as it was or repeated into a tensor, and the stride's name.
    strides = {
        name: name for name in re.findall(r"(%\w*(?:stride_[tscd]|table_stride)): i32", code)
    }
    found = set()
    for value, operation, operands in re.findall(r"(%\w+) = (\S+) (.*)", code):
        used = [strides[name] for name in re.findall(r"%\w+", operands) if name in strides]
        if used and operation in ("tt.splat", "tt.broadcast", "tt.expand_dims"):
            strides[value] = used[0]
        elif operation == "arith.muli":
            found.update(name.removeprefix("%") for name in used)
    return sorted(found)


def complaints(expected: Expected) -> list[str]:
    """Compile a call for sm_90 and say what is not as expected."""
    with compiling(SM_90) as launches:
        expected.call()
    names = sorted({launch.kernel for launch in launches})
    found = [] if names == sorted(expected.kernels) else [f"launched are {', '.join(names)}"]
    for launch in launches:
        if any(side > _GRID_SIDE for side in launch.grid[1:]):
            found.append(f"{launch.kernel}: grid {launch.grid}")
        needs = expected.kernels.get(launch.kernel, Needs())
        found += [f"{launch.kernel}: {unmet}" for unmet in needs.unmet(measure(launch.compiled))]
        found += [f"{launch.kernel}: {name} in 32 bits" for name in narrow_strides(launch.compiled)]
    return found
