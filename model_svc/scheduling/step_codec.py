"""Steps as bytes: a JSON header that describes the value, then the contents of its arrays.

Invariant: nothing but numbers, strings, tuples, arrays and the classes listed here is made from
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from model_svc.sampling.params import SamplingParams
from model_svc.scheduling.step import Admission, Chunks, Scores, StepInput, StepOutput

_CLASSES = {
    one.__name__: one for one in (StepInput, StepOutput, Admission, Chunks, Scores, SamplingParams)
}


def encode(value: StepInput | StepOutput) -> bytes:
    """The bytes of a step."""
    arrays: list[bytes] = []
    header = json.dumps(_describe(value, arrays)).encode()
    return b"".join([len(header).to_bytes(8, "little"), header, *arrays])


def decode_input(data: bytes) -> StepInput:
    """The step that `encode` was given."""
    value = _decode(data)
    assert isinstance(value, StepInput)
    return value


def decode_output(data: bytes) -> StepOutput:
    """The outcome that `encode` was given."""
    value = _decode(data)
    assert isinstance(value, StepOutput)
    return value


def _describe(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value.tobytes())
        fields_ = value.dtype.descr if value.dtype.names else value.dtype.str
        return {"array": fields_, "shape": value.shape}
    if isinstance(value, tuple):
        return [_describe(one, arrays) for one in value]
    if isinstance(value, Mapping):
        return {"map": [list(item) for item in value.items()]}
    if type(value).__name__ in _CLASSES:
        named = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        parts = {name: _describe(one, arrays) for name, one in named.items()}
        return {"class": type(value).__name__, "fields": parts}
    return value


def _decode(data: bytes) -> Any:
    begin = 8 + int.from_bytes(data[:8], "little")
    return _Reader(data, begin).build(json.loads(data[8:begin]))


class _Reader:
    """Position among the arrays of an encoded step."""

    def __init__(self, data: bytes, begin: int) -> None:
        self._data = data
        self._at = begin

    def build(self, described: Any) -> Any:
        """The value of one description; arrays are taken in the order of their descriptions."""
        if isinstance(described, list):
            return tuple(self.build(one) for one in described)
        if not isinstance(described, dict):
            return described
        if "map" in described:
            return dict(described["map"])
        if "array" in described:
            return self._array(described["array"], tuple(described["shape"]))
        parts = {name: self.build(one) for name, one in described["fields"].items()}
        return _CLASSES[described["class"]](**parts)

    def _array(self, descr: Any, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        fields_ = [tuple(one) for one in descr] if isinstance(descr, list) else descr
        dtype = np.dtype(fields_)
        size = dtype.itemsize * int(np.prod(shape))
        part = self._data[self._at : self._at + size]
        self._at += size
        return np.frombuffer(part, dtype).reshape(shape)
