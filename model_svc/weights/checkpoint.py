"""A checkpoint's description of its model; its weights are read by `model_svc.weights.loader`.

Invariant: every fault of a checkpoint is a `CheckpointError` of one line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.checkpoint_folder import find_checkpoint
from model_svc.models.config import CheckpointError, Config, read_object
from model_svc.models.family import Family
from model_svc.models.registry import family_of
from model_svc.models.spec import DecoderSpec
from model_svc.weights.generation_config import read_eos_token_ids, read_sampling_defaults
from model_svc.weights.source_map import decoder_sources
from model_svc.weights.sources import tensor_shapes

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "open_checkpoint",
    "read_checkpoint",
]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Description of a model by its checkpoint folder."""

    folder: Path
    name: str
    family: Family
    spec: DecoderSpec
    eos_token_ids: tuple[int, ...]
    """Ids of config.json and generation_config.json and the tokenizer's own, ascending."""
    dtype: str
    """Type of the weights by config.json, as "bfloat16"; "float32" where the entry is missing."""
    sampling_defaults: Mapping[str, float]
    """Sampling parameters of generation_config.json, by field of SamplingParams."""

    @property
    def architecture(self) -> str:
        """The entry of config.json's `architectures` that it is served as."""
        return self.family.architecture

    @property
    def context_length(self) -> int:
        """The longest sequence in tokens."""
        return self.spec.context_length

    @property
    def parameters(self) -> int:
        """Number of weights; tied ones count once."""
        shapes = tensor_shapes(decoder_sources(self.spec, self.family.names))
        return sum(map(math.prod, shapes.values()))


def open_checkpoint(model: str) -> Checkpoint:
    """Find and read a checkpoint; it is named for the last part of `model`.

    Args:
        model: a folder, or a hub id.

    Raises:
        CheckpointNotFound: no checkpoint has that name.
        CheckpointError: it cannot be served.
    """
    return read_checkpoint(find_checkpoint(model), name=Path(model).expanduser().absolute().name)


def read_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Read config.json, generation_config.json and the end tokens of the tokenizer's files.

    Args:
        folder: in Hugging Face layout.
        name: of the model; None: the folder's.

    Raises:
        CheckpointError: a file is missing or malformed, or the model cannot be served.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder at {folder}")
    entries = read_object(folder / "config.json")
    if entries is None:
        raise CheckpointError(
            f"{folder} has no config.json: give a checkpoint folder in Hugging Face layout"
        )
    config = Config(entries)
    family = family_of(config)
    spec = family.read_spec(config)
    generation = read_object(folder / "generation_config.json") or {}
    return Checkpoint(
        folder=folder,
        name=name or folder.absolute().name,
        family=family,
        spec=spec,
        eos_token_ids=read_eos_token_ids(folder, (entries, generation), spec.vocab_size),
        dtype=config.text("dtype", config.text("torch_dtype", "float32")),
        sampling_defaults=read_sampling_defaults(generation),
    )
