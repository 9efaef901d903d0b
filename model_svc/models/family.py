"""A family of checkpoints: its name, the reader of its config, the names of its weights.

Invariant: families differ in data alone; no code here or in a family runs in a forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from model_svc.models.config import Config
from model_svc.models.spec import DecoderSpec
from model_svc.models.weight_names import WeightNames


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of checkpoint."""

    architecture: str
    """Its entry in config.json's `architectures`."""
    read_spec: Callable[[Config], DecoderSpec]
    names: WeightNames
    config_keys: Mapping[str, str] = field(default_factory=dict)
    """Entries of config.json that ask for options, where they differ from `support.KEYS`."""
