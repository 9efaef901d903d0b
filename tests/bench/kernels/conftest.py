"""The tests of the kernels' benchmark interpret kernels; Triton decides as it is imported."""

from __future__ import annotations

from kernels.triton.process import prepare_triton

prepare_triton("interpret")
