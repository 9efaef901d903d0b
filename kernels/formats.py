"""Formats of stored numbers: of a layer's weights, and of the rows of a KV cache.

A format is data: it names a product or a cache in the table of operations, and computes nothing.
Invariant: two layers with equal formats have the same product on the same device.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dense:
    """Weights in the dtype that the model computes in."""


@dataclass(frozen=True, slots=True)
class Int8:
    """Weights of 8 bits, -127 to 127, with a scale for each output."""

    int8_activations: bool = False
    """Activations are rounded to int8 too, by a scale for each token and 128 inputs."""


@dataclass(frozen=True, slots=True)
class Int4Group:
    """Weights of 4 bits, one of sixteen fixed levels, with a scale for each group of inputs."""

    group: int = 32
    """Inputs of an output that share a scale."""


@dataclass(frozen=True, slots=True)
class Fp8Block:
    """Weights of float8 e4m3 with a scale for each block; no device has a product for it yet."""

    outputs: int = 128
    """Outputs of a block."""
    inputs: int = 128
    """Inputs of a block; activations are scaled by token and as many inputs."""


WeightFormat = Dense | Int8 | Int4Group | Fp8Block

DENSE = Dense()

WEIGHT_FORMATS: dict[str, WeightFormat] = {
    "none": DENSE,
    "int8": Int8(),
    "int4": Int4Group(),
    "w8a8": Int8(int8_activations=True),
}
"""Formats that weights can be quantised to at load, by the names that users know."""


@dataclass(frozen=True, slots=True)
class KvAsComputed:
    """Keys and values in the dtype that the model computes in: a tensor."""


@dataclass(frozen=True, slots=True)
class KvInt8:
    """Keys and values of int8 with a float16 scale for each row and head: `Int8Rows`."""


KvFormat = KvAsComputed | KvInt8

KV_AS_COMPUTED = KvAsComputed()

KV_FORMATS: dict[str, KvFormat] = {"auto": KV_AS_COMPUTED, "int8": KvInt8()}
"""Formats of caches, by the names that users know."""
