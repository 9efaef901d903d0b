"""Launches of the sampling kernels where nothing was tuned for the GPU.

Invariant: as `kernels.triton.defaults` says.
"""

from __future__ import annotations

from kernels.triton.launch import Config, Tuned

# A thread holds 8 logits with their words and bounds in 64 registers: eight blocks share an SM's.
SAMPLING_TILE = (Tuned({}, Config({"BLOCK": 2048}, num_warps=8)),)
SAMPLING_ROW = (Tuned({}, Config({"TILE": 1024}, num_warps=8)),)
EDIT_LOGITS = (Tuned({}, Config({"BLOCK": 2048, "PART": 16384}, num_warps=8)),)
# Half as many as in a draw's tile: sorting packed logits takes two registers for each.
LOG_PROBABILITIES = (Tuned({}, Config({"BLOCK": 2048}, num_warps=8)),)
