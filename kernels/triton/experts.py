"""Experts in PyTorch without a wait for the device, until they have kernels of their own.

Pairs of token and expert are sorted by expert into tiles of rows that share one expert; how many
tiles there may be follows from the number of tokens alone. Each tile multiplies its expert's
weights. Invariant: no shape and no launch depends on which experts the tokens choose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from kernels.formats import DENSE, Dense
from kernels.ops import Routing
from kernels.triton.rows.activations import silu_mul

_COPIED_BYTES = 512 << 20
"""Weights that tiles may copy at a time."""

_TILE_ROWS = (16, 32, 64, 128)


class _Tiles(NamedTuple):
    """Rows of a step, laid out by expert."""

    rows: int
    """Rows of a tile."""
    experts: torch.Tensor
    """[tiles] int64, each tile's expert; any for tiles without rows."""
    order: torch.Tensor
    """[pairs] int64, pairs of token and expert in the order of their experts."""
    places: torch.Tensor
    """[pairs] int64, the row of each pair in that order among the rows of all tiles."""


class GroupedExperts:
    """The experts of one layer; see `kernels.layers.Experts`."""

    def __init__(
        self,
        router: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
        routing: Routing,
        format: Dense = DENSE,
    ) -> None:
        """Keep the weights as `Operations.pack_experts` takes them."""
        self._router = router
        self._gate_up = gate_up
        self._down = down
        self._routing = routing
        weights = gate_up[0].numel() + down[0].numel()
        self._at_once = max(1, _COPIED_BYTES // (weights * down.itemsize))

    def __call__(self, x: torch.Tensor, /) -> torch.Tensor:
        """[tokens, hidden] to the same."""
        tokens, hidden = x.shape
        if tokens == 0:
            return torch.empty_like(x)
        weights, chosen = self._route(x)
        top_k = self._routing.top_k
        tiles = _tiles(chosen.flatten(), self._gate_up.shape[0])
        rows = x.new_zeros(tiles.experts.shape[0] * tiles.rows, hidden)
        rows.index_copy_(0, tiles.places, x.index_select(0, tiles.order // top_k))
        out = self._multiply(rows.view(-1, tiles.rows, hidden), tiles.experts).view(-1, hidden)
        pairs = torch.empty(tokens * top_k, hidden, dtype=x.dtype, device=x.device)
        pairs.index_copy_(0, tiles.order, out.index_select(0, tiles.places))
        weighted = pairs.view(tokens, top_k, hidden) * weights.unsqueeze(2)
        return weighted.sum(dim=1).to(x.dtype)

    def _route(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose experts: their weights [tokens, top_k] float32, and numbers [tokens, top_k]."""
        scores = functional.linear(x, self._router).float().softmax(dim=-1)
        weights, chosen = scores.topk(self._routing.top_k, dim=-1)
        if self._routing.renormalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, chosen

    def _multiply(self, rows: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
        """[tiles, rows, hidden] by the weights of each tile's expert."""
        outs = []
        for first in range(0, len(experts), self._at_once):
            own = experts[first : first + self._at_once]
            some = rows[first : first + self._at_once]
            both = torch.bmm(some, self._gate_up.index_select(0, own).transpose(1, 2))
            gated = silu_mul(both.flatten(0, 1)).view(*both.shape[:2], -1)
            outs.append(torch.bmm(gated, self._down.index_select(0, own).transpose(1, 2)))
        return outs[0] if len(outs) == 1 else torch.cat(outs)


def _tiles(chosen: torch.Tensor, experts: int) -> _Tiles:
    """Lay out pairs by `chosen` [pairs], the expert of each."""
    pairs, device = chosen.shape[0], chosen.device
    rows = next((rows for rows in _TILE_ROWS if rows * experts >= pairs), _TILE_ROWS[-1])
    # The full tiles of all experts, and one that is not full for each expert that is chosen.
    most = pairs // rows + min(pairs, experts)
    order = chosen.argsort(stable=True)
    sorted_experts = chosen.index_select(0, order)
    counts = torch.zeros(experts, dtype=torch.int64, device=device)
    counts.scatter_add_(0, chosen, torch.ones_like(chosen))
    starts = counts.cumsum(0) - counts
    tile_ends = ((counts + (rows - 1)) // rows).cumsum(0)
    first_tiles = tile_ends - (counts + (rows - 1)) // rows
    ranks = torch.arange(pairs, device=device) - starts.index_select(0, sorted_experts)
    places = first_tiles.index_select(0, sorted_experts) * rows + ranks
    tile_numbers = torch.arange(most, device=device)
    own = torch.searchsorted(tile_ends, tile_numbers, right=True).clamp_(max=experts - 1)
    return _Tiles(rows, own, order, places)
