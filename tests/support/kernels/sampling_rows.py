"""Makes the device arrays of a sampled batch from the choices that the oracle takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kernels.reference.sampling import Choice
from kernels.triton.configs import Config, forced
from kernels.triton.sampling.batch import Choices, Edits, Ragged, Uses, floors
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.scratch import Scratch


def to_device(values: Sequence[int] | Sequence[float], kind: type, device: str) -> torch.Tensor:
    array = np.array(values, kind)
    if kind is np.uint64:
        array = array.view(np.int64)
    return torch.from_numpy(array).to(device)


def choices_of(rows: Sequence[Choice], device: str) -> Choices:
    limits = floors(np.array([row.min_p for row in rows], np.float64))
    return Choices(
        to_device([row.temperature for row in rows], np.float32, device),
        to_device([row.seed for row in rows], np.uint64, device),
        to_device([row.position for row in rows], np.int64, device),
        to_device([row.candidate for row in rows], np.int64, device),
        to_device([row.top_k for row in rows], np.int64, device),
        to_device([row.top_p for row in rows], np.float64, device),
        torch.from_numpy(limits).to(device),
    )


def uses_of(rows: Sequence[Choice], vocab_size: int) -> Uses:
    return Uses.by(
        np.array([row.top_k for row in rows], np.int64),
        np.array([row.top_p for row in rows], np.float64),
        np.array([row.min_p for row in rows], np.float64),
        vocab_size,
    )


def ragged_of(
    lists: Sequence[Sequence[int]],
    amounts: Sequence[Sequence[float]] | None,
    kind: type,
    device: str,
) -> Ragged:
    """Lists with gaps between them, whose ids no kernel may read: they would be in the way."""
    gap = 3
    starts, ids, flat = [], [0] * gap, [99.0] * gap
    for i, row in enumerate(lists):
        starts.append(len(ids))
        ids += [*row, *([0] * gap)]
        flat += [*(amounts[i] if amounts is not None else row), *([99.0] * gap)]
    return Ragged(
        to_device(starts, np.int64, device),
        to_device([len(row) for row in lists], np.int32, device),
        to_device(ids, np.int32, device),
        None if amounts is None else to_device(flat, kind, device),
    )


def draw_all(
    logits: torch.Tensor,
    rows: Sequence[Choice],
    edits: Edits | None = None,
    *,
    block: int = 128,
    tile: int = 128,
    scratch: Scratch | None = None,
) -> list[int]:
    """The tokens drawn with small tiles, so that a small row has several."""
    device = str(logits.device)
    tokens = torch.full((len(rows),), -7, dtype=torch.int32, device=device)
    uses = uses_of(rows, logits.shape[1])
    with (
        forced("sampling_tile", Config({"BLOCK": block}, num_warps=4)),
        forced("sampling_row", Config({"TILE": tile}, num_warps=4)),
    ):
        if scratch is None:
            scratch = Scratch.allocate(len(rows), logits.shape[1], device)
        draw(logits, choices_of(rows, device), edits, uses, scratch, tokens)
    return tokens.tolist()
