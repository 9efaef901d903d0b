"""Steps to attend in, made nasty: permuted slots, free ones full of NaN, ragged lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kernels.attention_options import AttentionOptions, KvScales
from kernels.ops import AttentionChunks, AttentionShape
from kernels.reference import attention as reference_attention

# Relative error in L2 norm, and of values that are not near zero.
TOLERANCE = {torch.bfloat16: (4e-3, 2e-2), torch.float16: (4e-3, 2e-2), torch.float32: (1e-5, 1e-4)}
INT8_TOLERANCE = 3e-2

PLAIN = AttentionOptions()


@dataclass(frozen=True)
class Scene:
    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    chunks: AttentionChunks
    shape: AttentionShape
    scales: KvScales | None = None

    def expected(self, options: AttentionOptions = PLAIN) -> torch.Tensor:
        """What the oracle gives, in float64."""
        caches = self.k_cache, self.v_cache
        return reference_attention.attend_chunks(
            self.q.double(), caches, self.chunks, self.shape, options, self.scales
        )


def scene(
    device: str,
    chunks: Sequence[tuple[int, int]],
    heads: tuple[int, int, int] = (4, 2, 32),
    dtype: torch.dtype = torch.bfloat16,
    num_decodes: int = 0,
) -> Scene:
    """A step of chunks, each (queries, length), for (heads, kv_heads, head_dim).

    Slots that no sequence has, and places of the slot table past a sequence's length, lead to NaN.
    """
    shape = AttentionShape(*heads, scale=heads[2] ** -0.5)
    lengths = torch.tensor([length for _, length in chunks])
    counts = torch.tensor([queries for queries, _ in chunks])
    slots, longest = int(lengths.sum()) + 3, int(lengths.max())
    # Slot 0 is free too: it is what a masked lane would read.
    order = torch.cat((1 + torch.randperm(slots - 1), torch.tensor([0])))
    table = order[-1].repeat(len(chunks) + 2, longest + 5).int()
    rows = torch.randperm(len(chunks) + 2)[: len(chunks)]
    for row, own in zip(rows, order[:-3].split(lengths.tolist()), strict=True):
        table[row, : len(own)] = own
    # K and V beside each other, as a fused projection lays them out, so heads are not contiguous.
    cache = torch.full((slots, 2, heads[1], heads[2]), float("nan"), dtype=dtype)
    cache[order[:-3]] = torch.randn(slots - 3, 2, heads[1], heads[2]).to(dtype)
    q = torch.randn(int(counts.sum()), heads[0] + 2, heads[2]).to(dtype)[:, 1:-1]
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    parts = (table, rows, starts, lengths)
    on_device = AttentionChunks(*(part.to(device) for part in parts), num_decodes)
    k_cache, v_cache = cache.to(device).unbind(1)
    return Scene(q.to(device), k_cache, v_cache, on_device, shape)


def quantised(exact: Scene) -> Scene:
    """The same with int8 caches; what was NaN gets a scale of NaN."""
    k, k_scales = reference_attention.quantise(exact.k_cache.nan_to_num())
    v, v_scales = reference_attention.quantise(exact.v_cache.nan_to_num())
    free = exact.k_cache[:, :, 0].isnan()
    scales = KvScales(k_scales.masked_fill(free, torch.nan), v_scales.masked_fill(free, torch.nan))
    return replace(exact, k_cache=k, v_cache=v, scales=scales)


def options_of(device: str, heads: int, names: str) -> AttentionOptions:
    """Options by name, joined by "+"; "plain" for none."""
    slopes = torch.logspace(-1, -6, heads, base=2.0, device=device)
    every = {
        "plain": {},
        "alibi": {"alibi_slopes": slopes},
        "window": {"window": 9},
        "soft_cap": {"soft_cap": 1.5},
        "sinks": {"sinks": torch.linspace(-1.0, 3.0, heads, device=device)},
    }
    chosen = {key: value for name in names.split("+") for key, value in every[name].items()}
    return AttentionOptions(**chosen)


def assert_close(got: torch.Tensor, want: torch.Tensor, dtype: torch.dtype) -> None:
    """Hold `got` to what `dtype` allows."""
    in_norm, each = TOLERANCE[dtype]
    assert relative_error(got, want) < in_norm
    away = want.abs() > want.abs().mean()
    assert ((got.double() - want).abs()[away] / want.abs()[away]).max() < each


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """In L2 norm; NaN where either is."""
    return float((got.double() - want.double()).norm() / want.double().norm())
