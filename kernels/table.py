"""The table of operations of one device and dtype: an operation and a format lead to an entry.

Entries stand in order of preference; the first that takes the format, and the weight, is chosen.
Invariant: what the table lacks is refused by name, never replaced by another format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import torch

from kernels.devices import UnsupportedDevice
from kernels.formats import KV_AS_COMPUTED, KvFormat, WeightFormat
from kernels.ops import Captured, Operations

PACKING = ("pack_linear", "pack_gated", "pack_activated", "pack_experts")
"""Operations that are looked up for each layer, by the format of its weights."""

CACHED = ("store_kv", "plan_attention", "attention")
"""Operations that are looked up by the format of the caches."""

OPERATIONS = tuple(
    name for name in vars(Operations) if not name.startswith("_") and name != "capture"
)
"""Names of all operations; the contract of each is its method of `Operations`."""


class Recorder(Protocol):
    """Records operations while a computation is captured."""

    def capture(self, compute: Callable[[], torch.Tensor]) -> Captured | None:
        """See `Operations.capture`."""
        ...

    def compute_otherwise(self) -> None:
        """Announce a computation that cannot be recorded; ends a recording."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One implementation of an operation."""

    operation: str
    run: Callable[..., Any]
    format: type[WeightFormat | KvFormat] | None
    """Format of weights or caches that it computes with; None where neither matters."""
    recorded: bool
    """Its calls can be recorded while a computation is captured."""
    takes: Callable[[torch.Tensor], bool] | None = None
    """Weights that it can pack; None for all."""


@dataclass(frozen=True, slots=True)
class Table:
    """Entries of one device and dtype, in order of preference."""

    device: str
    recorder: Recorder | None = None
    """Recorder of the entries that are recorded; None where there are none."""
    entries: list[Entry] = field(default_factory=list)

    def add(
        self, holder: object, caches: KvFormat = KV_AS_COMPUTED, *, recorded: bool = False
    ) -> None:
        """Add each operation that `holder` defines, but the packing of layers.

        Args:
            holder: a module whose functions, or an object whose methods, have operations' names.
            caches: the format that its cache operations, if any, take.
            recorded: whether its calls can be recorded.
        """
        for name in OPERATIONS:
            run = getattr(holder, name, None)
            if run is None or name in PACKING or _is_imported(run, holder):
                continue
            of = type(caches) if name in CACHED else None
            self.entries.append(Entry(name, run, of, recorded))

    def add_layer(
        self,
        operation: str,
        pack: Callable[..., Any],
        format: type[WeightFormat],
        takes: Callable[[torch.Tensor], bool] | None = None,
        *,
        recorded: bool = False,
    ) -> None:
        """Add the packing of a layer whose weights have a format; `PACKING` names the operation."""
        self.entries.append(Entry(operation, pack, format, recorded, takes))

    def find(
        self,
        operation: str,
        format: WeightFormat | KvFormat | None = None,
        weight: torch.Tensor | None = None,
    ) -> Entry | None:
        """The first entry for the operation, a format and a weight of this shape and dtype."""
        for entry in self.entries:
            right = entry.operation == operation and entry.format in (None, type(format))
            if right and (entry.takes is None or weight is None or entry.takes(weight)):
                return entry
        return None

    def get(
        self,
        operation: str,
        format: WeightFormat | KvFormat | None = None,
        weight: torch.Tensor | None = None,
    ) -> Entry:
        """As `find`.

        Raises:
            UnsupportedDevice: there is no entry; the message says what to do.
        """
        entry = self.find(operation, format, weight)
        if entry is None:
            raise UnsupportedDevice(f"device {self.device!r} has {_lack(operation, format)}")
        return entry


def _is_imported(run: Callable[..., Any], holder: object) -> bool:
    """A module also has the operations that it calls of others."""
    return isinstance(holder, ModuleType) and run.__module__ != holder.__name__


def _lack(operation: str, format: WeightFormat | KvFormat | None) -> str:
    """An entry that is missing, and the remedy."""
    name = type(format).__name__
    if operation in PACKING:
        return f"no products of {name} weights: quantize none, or run with --device cpu"
    if operation in CACHED:
        return f"no {name} cache: KV dtype auto, or run with --device cpu"
    return f"no {operation}"
