"""The structures that the C functions take, as they are packed.

Invariant: every field takes eight bytes, and the order is that of the source named; a library whose
structures have other sizes is not used.
"""

from __future__ import annotations

import struct

import torch

CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Codes of dtypes in C, of those that are computed in."""

INT8 = 3
"""Code of int8, for caches alone."""

_HEADS = "6q"
_ROUTING = "4q 7q"
_ROWS = "q 3q q"

# source/rows.h
RMS_NORM = struct.Struct("=2q 4q 2q d")
NORM_HEADS = struct.Struct(f"=2q {_HEADS} q d")
ROPE = struct.Struct(f"=2q {_HEADS} q")
SILU_MUL = struct.Struct("=2q 2q 2q")
STORE_KV = struct.Struct(f"=2q {_HEADS} {_HEADS} 3q 3q 4q")
TAKE_ROWS = struct.Struct("=q 3q 2q 2q")
ARGMAX = struct.Struct("=2q 3q q")

# source/attention.h, in two parts: of the step and of the layer
STEP = struct.Struct("=2q 2q 3q 5q d 2q")
LAYER = struct.Struct("=3q 2q 3q 4q q")

# source/panels.h
PACK_PANELS = struct.Struct("=q q 3q q q")

# source/tiles.h, source/linear.h, source/routing.h and source/experts.h
LINEAR = struct.Struct(f"=q {_ROWS} q q 3q")
EXPERTS = struct.Struct(f"=q {_ROWS} q {_ROUTING} 3q q 2q")

# source/quantise.h and source/activations.h
PACK_WEIGHTS = struct.Struct("=2q 4q 3q")
MULTIPLY_QUANTISED = struct.Struct("=2q 3q 3q 3q q 2q")

# source/quantised_experts.h
QUANTISED_EXPERTS = struct.Struct(f"=2q 2q 2q {_ROUTING} q 2q 2q 2q 4q")

# source/calls.c
CALL = struct.Struct("=2q")
RUN_CALLS = struct.Struct("=3q")

SIZES = {
    "rms_norm": RMS_NORM.size,
    "norm_heads": NORM_HEADS.size,
    "rope": ROPE.size,
    "silu_mul": SILU_MUL.size,
    "store_kv": STORE_KV.size,
    "take_rows": TAKE_ROWS.size,
    "argmax": ARGMAX.size,
    "plan_attention": STEP.size + LAYER.size,
    "attention": STEP.size + LAYER.size,
    "pack_panels": PACK_PANELS.size,
    "linear": LINEAR.size,
    "experts": EXPERTS.size,
    "pack_weights": PACK_WEIGHTS.size,
    "multiply_quantised": MULTIPLY_QUANTISED.size,
    "quantised_experts": QUANTISED_EXPERTS.size,
}
"""Bytes that each function takes."""
