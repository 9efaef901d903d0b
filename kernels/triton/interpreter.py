"""Triton's interpreter with its arithmetic mended, so that what it computes can be believed.

As it comes, Triton 3.6's interpreter does arithmetic on the bits of bfloat16, truncates where
hardware rounds, and loses carries in float8. Invariant: once installed, floating operations give
what sm_90 gives, up to the order of sums; tf32 is computed as float32.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

Array = np.ndarray[Any, Any]

# Floats that numpy has no type for: the interpreter keeps their bits in unsigned integers.
_FOREIGN = {
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
_NATIVE = (tl.float16, tl.float32, tl.float64)

_convert_float = interpreter._convert_float
_patch_lang = interpreter._patch_lang
_patch_lang_tensor = interpreter._patch_lang_tensor
_call_grid = interpreter.GridExecutor.__call__
_binary_op = interpreter.InterpreterBuilder.binary_op
_ternary_op = interpreter.InterpreterBuilder.ternary_op
_cast = interpreter.InterpreterBuilder.cast_impl
_unary_op = interpreter.InterpreterBuilder.unary_op
_reduce_sum = interpreter.ReduceOps.sum
_reduce_extreme = interpreter.ReduceOps.min_max


class CompilesAlready(Exception):
    """Triton was imported to compile kernels; a process does either, for as long as it lives."""


def install() -> None:
    """Mend the interpreter of this process; more than once does no harm.

    Raises:
        CompilesAlready: kernels defined from now on would be compiled.
    """
    if not isinstance(tl.sum, interpreter.InterpretedFunction):
        raise CompilesAlready("TRITON_INTERPRET=1 must be set before Triton is imported")
    interpreter._convert_float = convert_float
    interpreter._patch_lang = LanguageOnce()
    interpreter._patch_lang_tensor = patch_tensor
    interpreter.GridExecutor.__call__ = call_grid
    builder = interpreter.InterpreterBuilder
    builder.create_dot = dot
    builder.create_fma = fma
    builder.binary_op = binary
    builder.ternary_op = ternary
    builder.unary_op = unary
    builder.cast_impl = cast
    # Products are exact here, however a kernel asks for them to be computed.
    builder_options = interpreter.interpreter_builder.options
    known = (*interpreter.InterpreterOptions().allowed_dot_input_precisions, "bf16x3", "bf16x6")
    interpreter.interpreter_builder.options = replace(
        builder_options, allowed_dot_input_precisions=known
    )
    interpreter.ReduceOps.sum = reduce_sum
    interpreter.ReduceOps.min_max = reduce_extreme


def widen(data: Array, dtype: tl.dtype) -> Array:
    """Values as numpy floats: float32 for what numpy has no type for."""
    if dtype not in _FOREIGN:
        return data
    bits = torch.from_numpy(np.ascontiguousarray(data).reshape(-1).copy())
    return bits.view(_FOREIGN[dtype]).float().numpy().reshape(data.shape)


def narrow(values: Array, dtype: tl.dtype) -> Array:
    """Bits of `values` rounded to nearest even; float8 saturates, as sm_90 converts."""
    if dtype not in _FOREIGN:
        return values
    wide = torch.from_numpy(np.array(values, dtype=np.float32).reshape(-1))
    kind = _FOREIGN[dtype]
    if kind != torch.bfloat16:
        most = torch.finfo(kind).max
        wide = torch.where(wide.isnan(), wide, wide.clamp(-most, most))
    bits = torch.uint16 if kind == torch.bfloat16 else torch.uint8
    return wide.to(kind).view(bits).numpy().reshape(values.shape)


def convert_float(data: Array, source: tl.dtype, target: tl.dtype, rounding: Any) -> Array:
    """Bits of `data` in another float type, rounded to nearest even unless towards zero."""
    known = (*_FOREIGN, *_NATIVE)
    towards_zero = rounding == interpreter._ir.ROUNDING_MODE.RTZ
    if source not in known or target not in known or towards_zero:
        bits: Array = _convert_float(data, source, target, rounding)
        return bits
    if target in _FOREIGN:
        return narrow(widen(data, source), target)
    converted = widen(data, source).astype(interpreter._get_np_dtype(target))
    return converted.view(getattr(np, f"uint{target.primitive_bitwidth}"))


def dot(_: Any, a: Any, b: Any, accumulator: Any, *_precision: Any) -> Any:
    """`a @ b + accumulator`; products are exact, sums float32 (of integers: exact)."""
    kind = a.dtype.scalar
    if kind.is_floating():
        left, right = widen(a.data, kind), widen(b.data, b.dtype.scalar)
        if kind != tl.float64:
            left, right = left.astype(np.float32), right.astype(np.float32)
    else:
        left, right = a.data.astype(np.float64), b.data.astype(np.float64)
    out = np.matmul(left, right).astype(accumulator.data.dtype) + accumulator.data
    return interpreter.TensorHandle(out, accumulator.dtype.scalar)


def fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    """`x * y + z`, rounded once where the interpreter's own type is narrower than float32."""
    kind = z.dtype.scalar
    x, y, z = (_wide_handle(handle) for handle in (x, y, z))
    out = x.data * y.data + z.data
    return interpreter.TensorHandle(narrow(out, kind), kind)


def binary(self: Any, left: Any, right: Any, operation: Callable[..., Array]) -> Any:
    """An operation on two operands; comparisons stay booleans."""
    kind = left.dtype.scalar
    if kind not in _FOREIGN:
        return _binary_op(self, left, right, operation)
    out = operation(widen(left.data, kind), widen(right.data, right.dtype.scalar))
    return interpreter.TensorHandle(out if out.dtype == bool else narrow(out, kind), kind)


def ternary(self: Any, a: Any, b: Any, c: Any, operation: Callable[..., Array]) -> Any:
    """An operation on three operands; a choice between two of them moves bits only."""
    kind = c.dtype.scalar
    if kind not in _FOREIGN or operation is np.where:
        return _ternary_op(self, a, b, c, operation)
    out = operation(*(_wide_handle(handle).data for handle in (a, b, c)))
    return interpreter.TensorHandle(narrow(out, kind), kind)


def unary(self: Any, operand: Any, operation: Callable[[Array], Array]) -> Any:
    """An operation on one operand."""
    kind = operand.dtype.scalar
    if kind not in _FOREIGN:
        return _unary_op(self, operand, operation)
    out = operation(widen(operand.data, kind))
    return interpreter.TensorHandle(narrow(out, kind), kind)


def cast(self: Any, operand: Any, dtype: tl.dtype) -> Any:
    """A value in another type; integers become floats by value, and back."""
    source, target = operand.dtype.scalar, dtype.scalar
    if source not in _FOREIGN and target not in _FOREIGN:
        return _cast(self, operand, dtype)
    values = widen(operand.data, source)
    if target not in _FOREIGN:
        return interpreter.TensorHandle(values.astype(interpreter._get_np_dtype(target)), target)
    return interpreter.TensorHandle(narrow(values, target), target)


def reduce_sum(self: Any, operand: Any) -> Any:
    """A sum, in float32 and rounded once where numpy has no type for the operand."""
    return _narrow_tensor(_reduce_sum(self, _wide_tensor(operand)), operand.dtype)


def reduce_extreme(self: Any, operand: Any, *reduce: Any, **named: Any) -> Any:
    """The least or greatest, and where it stands if that is asked."""
    found = _reduce_extreme(self, _wide_tensor(operand), *reduce, **named)
    if isinstance(found, tuple):
        return _narrow_tensor(found[0], operand.dtype), found[1]
    return _narrow_tensor(found, operand.dtype)


def _wide_handle(handle: Any) -> Any:
    kind = handle.dtype.scalar
    if kind not in _FOREIGN:
        return handle
    return interpreter.TensorHandle(widen(handle.data, kind), tl.float32)


def _wide_tensor(tensor: Any) -> Any:
    if tensor.dtype not in _FOREIGN:
        return tensor
    return tl.tensor(_wide_handle(tensor.handle), tensor.type.with_element_ty(tl.float32))


def _narrow_tensor(tensor: Any, dtype: tl.dtype) -> Any:
    if dtype not in _FOREIGN:
        return tensor
    bits = interpreter.TensorHandle(narrow(tensor.handle.data, dtype), dtype)
    return tl.tensor(bits, tensor.type.with_element_ty(dtype))


def call_grid(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a grid; lanes that a mask throws away may overflow, as they may on hardware."""
    with np.errstate(all="ignore"):
        return _call_grid(self, *args, **kwargs)


def patch_tensor(tensor: Any, scope: Any) -> None:
    """Let scalars be loop bounds without the conversion that numpy warns of."""
    _patch_lang_tensor(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())


class LanguageOnce:
    """Turns `triton.language` into the interpreter's, once and for good.

    The interpreter does so at every call of a device function, which is most of its time. Nothing
    is turned back: a process that interprets kernels compiles none.
    """

    def __init__(self) -> None:
        self._patched: set[ModuleType] = set()

    def __call__(self, function: FunctionType) -> Any:
        used = {value for value in function.__globals__.values() if value is tl or value is tl.core}
        if not used or not used <= self._patched:
            _patch_lang(function)
            self._patched |= used
        return interpreter._LangPatchScope()
