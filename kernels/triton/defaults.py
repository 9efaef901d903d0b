"""Launches of all kernels where nothing was tuned for the GPU.

Invariant: every launch here compiles for sm_90 without spilling, which the ahead-of-time check of
the kernels holds up.
"""

from __future__ import annotations

from collections.abc import Mapping

from kernels.triton.attention.defaults import DECODE, PREFILL, SPLITS, STORE
from kernels.triton.launch import Tuned
from kernels.triton.rows.defaults import ROWS
from kernels.triton.sampling.defaults import (
    EDIT_LOGITS,
    LOG_PROBABILITIES,
    SAMPLING_ROW,
    SAMPLING_TILE,
)

DEFAULTS: Mapping[str, tuple[Tuned, ...]] = {
    **ROWS,
    "store_kv": STORE,
    "prefill_attention": PREFILL,
    "edit_logits": EDIT_LOGITS,
    "log_probabilities": LOG_PROBABILITIES,
    "sampling_tile": SAMPLING_TILE,
    "sampling_row": SAMPLING_ROW,
    "decode_attention": DECODE,
    "decode_splits": SPLITS,
}
