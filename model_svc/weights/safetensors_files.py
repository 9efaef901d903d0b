"""Read parts of tensors out of a checkpoint's safetensors files, single or sharded.

Invariant: no pickle is ever opened, and every damaged or missing file ends in a `CheckpointError`
of one line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from model_svc.models.config import CheckpointError
from model_svc.weights.sources import DecoderSources, WeightSource, tensor_shapes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Names in a safetensors header, and bytes of a number.
FLOAT_TYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class DamagedWeights(CheckpointError):
    """A file of weights is truncated, missing or of another kind."""


class WrongTensor(CheckpointError):
    """A tensor is missing, or has another shape or type than the model needs."""


class TensorFiles:
    """Tensors of one checkpoint, checked against the sources of a model's weights."""

    def __init__(
        self,
        folder: Path,
        sources: DecoderSources,
        progress: Callable[[int, int], None],
    ) -> None:
        """Open the files and check every wanted tensor's name, shape and type.

        Args:
            folder: of the checkpoint.
            sources: of all weights; each is read once.
            progress: called with the bytes read and the bytes of all sources.

        Raises:
            DamagedWeights: a file is missing or damaged, or there is none.
            WrongTensor: a tensor is missing or is not as wanted.
        """
        wanted = tensor_shapes(sources)
        self._progress = progress
        self._files = _locate(folder, wanted)
        self._itemsizes = {
            name: _checked_itemsize(self._files[name], name, shape)
            for name, shape in wanted.items()
        }
        self._done_bytes = 0
        self._total_bytes = sum(map(self._bytes, sources.all()))

    def read(self, source: WeightSource, out: torch.Tensor) -> None:
        """Copy a part into `out`, which has its shape; its dtype may be another.

        Raises:
            DamagedWeights: the file cannot be read.
        """
        try:
            # A view of the mapped file: of a fused tensor, the part alone is read.
            stored = self._files[source.name].get_tensor(source.name)
        except SafetensorError as error:
            raise DamagedWeights(f"cannot read tensor {source.name}: {_line(error)}") from error
        out.copy_(source.part(stored))
        self._done_bytes += self._bytes(source)
        self._progress(self._done_bytes, self._total_bytes)

    def _bytes(self, source: WeightSource) -> int:
        return math.prod(source.part_shape) * self._itemsizes[source.name]


def _locate(folder: Path, wanted: Iterable[str]) -> dict[str, Any]:
    """Find the opened file of every wanted tensor."""
    if (folder / INDEX).is_file():
        return _locate_sharded(folder, wanted)
    if (folder / SINGLE).is_file():
        file = _open(folder / SINGLE)
        present = set(file.keys())
        return {name: file for name in wanted if _require(name in present, name, SINGLE)}
    if any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise DamagedWeights(
            f"{folder} has its weights as pickles, which are not loaded because they can run "
            "code: convert them to safetensors"
        )
    raise DamagedWeights(f"{folder} has neither {SINGLE} nor {INDEX}: the weights are missing")


def _locate_sharded(folder: Path, wanted: Iterable[str]) -> dict[str, Any]:
    shards = _read_index(folder / INDEX)
    opened: dict[str, Any] = {}
    present: dict[str, set[str]] = {}
    files = {}
    for name in wanted:
        _require(name in shards, name, INDEX)
        shard = shards[name]
        if shard not in opened:
            if Path(shard).name != shard or not (folder / shard).is_file():
                raise DamagedWeights(f"{folder} has no {shard}, which {INDEX} lists: get it again")
            opened[shard] = _open(folder / shard)
            present[shard] = set(opened[shard].keys())
        _require(name in present[shard], name, shard)
        files[name] = opened[shard]
    return files


def _read_index(path: Path) -> dict[str, str]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedWeights(f"{path} is not a JSON index: {_line(error)}") from error
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
        raise DamagedWeights(f"{path} has no weight_map of tensors to files: get it again")
    return shards


def _open(path: Path) -> Any:
    try:
        # Never closed by hand: the map goes with the last tensor that is read from it.
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise DamagedWeights(
            f"{path} is truncated or not a safetensors file: get it again ({_line(error)})"
        ) from error


def _require(present: bool, name: str, where: str) -> bool:
    if not present:
        raise WrongTensor(
            f"tensor {name} is not in {where}: the checkpoint does not fit its config"
        )
    return True


def _checked_itemsize(file: Any, name: str, wanted: tuple[int, ...]) -> int:
    header = file.get_slice(name)
    shape, kind = tuple(header.get_shape()), header.get_dtype()
    if shape != wanted:
        raise WrongTensor(
            f"tensor {name} has shape {list(shape)}, config.json implies {list(wanted)}"
        )
    if kind not in FLOAT_TYPES:
        raise WrongTensor(
            f"tensor {name} is of type {kind}, expected one of {', '.join(FLOAT_TYPES)}: "
            "use a checkpoint that is not quantised"
        )
    return FLOAT_TYPES[kind]


def _line(error: Exception) -> str:
    """An error's text on one line."""
    return " ".join(str(error).split())
