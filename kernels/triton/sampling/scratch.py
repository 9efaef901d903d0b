"""Memory that the kernels of one draw hand things on in.

Invariant: lengths and histograms are zero between draws, since their last reader clears
them; everything else is written before it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from kernels.triton.configs import choose

GROUP = 128
"""Tokens whose largest logit is noted: with so many groups above it, a top-k's last is bounded."""
BINS = 2048
"""Ranges of logits that tokens are counted in."""


class Maxima(NamedTuple):
    """The largest logits."""

    logits: torch.Tensor
    """[rows, tiles] float32."""
    ids: torch.Tensor
    """[rows, tiles] int32, the lowest of those that have it."""
    groups: torch.Tensor
    """[rows, groups] float32."""


class Histogram(NamedTuple):
    """Contents of each bin of each row."""

    counts: torch.Tensor
    """[rows, BINS] int32: tokens."""
    masses: torch.Tensor
    """[rows, BINS] int64: their probability, in the units of `fixed_exp`."""


class Brackets(NamedTuple):
    """Between which bins, and up to which key, a row's last token surely lies; [rows] each.

    Of the bins before `first` every token is kept by top-k and top-p, of those after `last` none.
    """

    first: torch.Tensor
    """int32."""
    last: torch.Tensor
    """int32."""
    keys: torch.Tensor
    """int32: what no listed token's key is above; of rows with a small top-k."""
    counts: torch.Tensor
    """int64: tokens before `first`; of rows with top-k."""
    masses: torch.Tensor
    """int64: their probability; of rows with top-p."""
    totals: torch.Tensor
    """int64: probability of the whole row; of rows with top-p and no top-k."""


class Shortlist(NamedTuple):
    """The tokens of each row that are looked at one by one, in any order."""

    ids: torch.Tensor
    """[rows, vocab] int32; -1 - id for a token that top-k and top-p surely leave."""
    logits: torch.Tensor
    """[rows, vocab] float32; scaled, where the row has a filter."""
    lengths: torch.Tensor
    """[rows] int32."""


class Edited(NamedTuple):
    """Logits of the rows whose request changes them."""

    logits: torch.Tensor
    """[rows, vocab] float32."""
    rows: torch.Tensor
    """[rows] int32, 1 where they hold instead of the raw logits."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """All that a draw of up to `rows` rows writes besides its tokens."""

    rows: int
    vocab_size: int
    block: int
    """Tokens of a row that one program looks at."""
    maxima: Maxima
    histogram: Histogram
    brackets: Brackets
    shortlist: Shortlist
    edited: Edited

    @property
    def tiles(self) -> int:
        """Programs that share a row."""
        return self.maxima.logits.shape[1]

    @classmethod
    def allocate(cls, rows: int, vocab_size: int, device: torch.device | str) -> Scratch:
        """Make what draws of up to `rows` rows need: about 12 bytes a logit, and 26 KiB a row."""

        def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        block = choose("sampling_tile", vocab=vocab_size).tiles["BLOCK"]
        tiles = -(-vocab_size // block)
        return cls(
            rows,
            vocab_size,
            block,
            Maxima(
                empty(rows, tiles, dtype=torch.float32),
                empty(rows, tiles, dtype=torch.int32),
                empty(rows, tiles * (block // GROUP), dtype=torch.float32),
            ),
            Histogram(
                zeros(rows, BINS, dtype=torch.int32),
                zeros(rows, BINS, dtype=torch.int64),
            ),
            Brackets(
                *(empty(rows, dtype=torch.int32) for _ in range(3)),
                *(empty(rows, dtype=torch.int64) for _ in range(3)),
            ),
            Shortlist(
                empty(rows, vocab_size, dtype=torch.int32),
                empty(rows, vocab_size, dtype=torch.float32),
                zeros(rows, dtype=torch.int32),
            ),
            Edited(
                empty(rows, vocab_size, dtype=torch.float32),
                empty(rows, dtype=torch.int32),
            ),
        )
