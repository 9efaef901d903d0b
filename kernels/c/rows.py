"""Operations on every token by itself, in C.

Arguments that the C code does not take, such as other dtypes, go to `kernels.cpu.rows`. Invariant:
no pointer is passed on before the tensor's dtype, shape and strides are known to be right.
"""

from __future__ import annotations

import torch

from kernels.attention_options import KvScales
from kernels.c.arguments import (
    CODES,
    NORM_HEADS,
    RMS_NORM,
    ROPE,
    SILU_MUL,
    STORE_KV,
    TAKE_ROWS,
)
from kernels.c.calls import Calls
from kernels.cpu import rows


class NativeRows:
    """The operations on rows; see `Operations`."""

    def __init__(self, calls: Calls) -> None:
        """Compute by `calls`."""
        self._calls = calls
        self._take_rows = calls.function("take_rows")
        self._rms_norm = calls.function("rms_norm")
        self._norm_heads = calls.function("norm_heads")
        self._rope = calls.function("rope")
        self._silu_mul = calls.function("silu_mul")
        self._store_kv = calls.function("store_kv")

    def take_rows(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """See `Operations.take_rows`.

        Raises:
            IndexError: there is no such row.
        """
        together = x[:1].is_contiguous()
        if not (together and _lies_like(rows, torch.int64, rows.shape[:1])):
            self._calls.compute_otherwise()
            return x.index_select(0, rows)
        out = self._calls.empty((rows.shape[0], *x.shape[1:]), x.dtype)
        row_bytes = x[:1].numel() * x.element_size()
        table = (x.data_ptr(), x.shape[0], x.stride(0) * x.element_size())
        results = (out.data_ptr(), rows.shape[0], row_bytes)
        packed = TAKE_ROWS.pack(torch.get_num_threads(), *table, rows.data_ptr(), *results)
        if self._take_rows(packed):
            raise IndexError(f"rows {rows.tolist()}: there are {x.shape[0]}")
        return out

    def embedding(self, token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """See `Operations.embedding`."""
        return self.take_rows(table, token_ids)

    def rms_norm(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Operations.rms_norm`."""
        tokens, hidden = x.shape
        known = (
            (code := CODES.get(x.dtype)) is not None
            and x.is_contiguous()
            and _lies_like(weight, x.dtype, (hidden,))
            and (residual is None or _lies_like(residual, x.dtype, (tokens, hidden)))
        )
        if not known:
            self._calls.compute_otherwise()
            return rows.rms_norm(x, weight, eps, residual)
        if residual is None:
            out, added, total = self._calls.empty(x.shape, x.dtype), 0, x
        else:
            out, added, total = x, residual.data_ptr(), residual
        threads = torch.get_num_threads()
        pointers = (weight.data_ptr(), x.data_ptr(), added, out.data_ptr())
        self._rms_norm(RMS_NORM.pack(code, threads, *pointers, tokens, hidden, eps))
        return out, total

    def norm_heads(self, heads: torch.Tensor, weight: torch.Tensor, eps: float) -> None:
        """See `Operations.norm_heads`."""
        code, own = CODES.get(heads.dtype), _heads(heads)
        if code is None or own is None or not _lies_like(weight, heads.dtype, heads.shape[1:]):
            self._calls.compute_otherwise()
            rows.norm_heads(heads, weight, eps)
        else:
            threads = torch.get_num_threads()
            self._norm_heads(NORM_HEADS.pack(code, threads, *own, weight.data_ptr(), eps))

    def rope_angles(self, table: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """See `Operations.rope_angles`: [tokens, head_dim] float32, cosines then sines."""
        return self.take_rows(table, positions)

    def rope(self, heads: torch.Tensor, angles: torch.Tensor) -> None:
        """See `Operations.rope`."""
        code, own = CODES.get(heads.dtype), _heads(heads)
        tokens, _, head_dim = heads.shape
        if code is None or own is None or head_dim % 2:
            self._calls.compute_otherwise()
            cos, sin = angles.unsqueeze(1).chunk(2, dim=-1)
            rows.rope(heads, (torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))
        elif not _lies_like(angles, torch.float32, (tokens, head_dim)):
            raise ValueError(f"angles {tuple(angles.shape)}: expected [{tokens}, {head_dim}]")
        else:
            self._rope(ROPE.pack(code, torch.get_num_threads(), *own, angles.data_ptr()))

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """See `Operations.silu_mul`."""
        code = CODES.get(gate_up.dtype)
        tokens, both = gate_up.shape
        if code is None or both % 2 or not gate_up.is_contiguous():
            self._calls.compute_otherwise()
            return rows.silu_mul(gate_up)
        out = self._calls.empty((tokens, both // 2), gate_up.dtype)
        pointers = gate_up.data_ptr(), out.data_ptr()
        self._silu_mul(SILU_MUL.pack(code, torch.get_num_threads(), *pointers, tokens, both // 2))
        return out

    def store_kv(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
    ) -> None:
        """See `Operations.store_kv`.

        Raises:
            IndexError: a slot is not in the cache; nothing was written.
        """
        same = k.dtype == v.dtype == k_cache.dtype == v_cache.dtype
        if not (same and self._stored(k, v, slots, (k_cache, v_cache), (0, 0, 0, 0))):
            self._calls.compute_otherwise()
            rows.store_kv(k, v, slots, k_cache, v_cache)

    def store_kv_int8(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        k_cache: torch.Tensor,
        v_cache: torch.Tensor,
        scales: KvScales,
    ) -> None:
        """As `store_kv`, each row rounded to int8 by its own scale, a 127th of its greatest value.

        Args:
            k, v, slots: as for `store_kv`.
            k_cache, v_cache: [slots, kv_heads, head_dim] int8.
            scales: where the scales go.

        Raises:
            IndexError: a slot is not in the cache; nothing was written.
            ValueError: shapes, strides or types disagree.
        """
        own = (scales.k.data_ptr(), scales.v.data_ptr(), *scales.k.stride())
        scaled = all(
            scale.shape == k_cache.shape[:2]
            and scale.dtype == torch.float16
            and scale.stride() == scales.k.stride()
            for scale in (scales.k, scales.v)
        )
        same = k.dtype == v.dtype and k_cache.dtype == v_cache.dtype == torch.int8
        if not (scaled and same and self._stored(k, v, slots, (k_cache, v_cache), own)):
            raise ValueError(
                f"k {tuple(k.shape)} {k.dtype}, caches {tuple(k_cache.shape)} {k_cache.dtype}, "
                f"scales {tuple(scales.k.shape)}: expected int8 caches with a scale per row"
            )

    def _stored(
        self,
        k: torch.Tensor,
        v: torch.Tensor,
        slots: torch.Tensor,
        caches: tuple[torch.Tensor, torch.Tensor],
        scales: tuple[int, ...],
    ) -> bool:
        """Store them, unless they lie in a way that the C code does not take."""
        code, keys, values = CODES.get(k.dtype), _heads(k), _heads(v)
        k_cache, v_cache = caches
        shape, strides = k_cache.shape, k_cache.stride()
        if code is None or keys is None or values is None or keys[1:4] != values[1:4]:
            return False
        alike = shape == v_cache.shape and strides == v_cache.stride() and strides[2] == 1
        if not (alike and shape[1:] == keys[2:4] and _lies_like(slots, torch.int64, keys[1:2])):
            return False
        pointers = (slots.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr())
        sizes = (shape[0], strides[0], strides[1])
        threads = torch.get_num_threads()
        packed = STORE_KV.pack(code, threads, *keys, *values, *pointers, *sizes, *scales)
        if self._store_kv(packed):
            raise IndexError(f"slots {slots.tolist()}: the cache has {shape[0]}")
        return True


def _lies_like(
    tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...] | torch.Size
) -> bool:
    return tensor.dtype == dtype and tensor.shape == shape and tensor.is_contiguous()


def _heads(heads: torch.Tensor) -> tuple[int, ...] | None:
    """Fill in the C structure `heads`, or None where a head does not lie together."""
    tokens, count, head_dim = heads.shape
    token_stride, head_stride, stride = heads.stride()
    if stride != 1 and head_dim > 1:
        return None
    return heads.data_ptr(), tokens, count, head_dim, token_stride, head_stride
