"""The mask of a prompt's later chunks."""

from __future__ import annotations

import torch

from kernels.cpu.prefill_attention import _mask_over_reversed_keys


def test_mask_is_causal_and_takes_no_more_memory_than_a_row() -> None:
    count, length = 5, 12

    mask = _mask_over_reversed_keys(count, length, torch.float32)

    keys, queries = torch.arange(length), torch.arange(length - count, length)
    seen = mask.flip(1) == 0
    assert torch.equal(seen, keys[None, :] <= queries[:, None])
    assert mask.untyped_storage().nbytes() == 4 * (count + length - 1)
