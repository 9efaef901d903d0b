"""Families that can be served, and the choice among them by a checkpoint's config.json."""

from __future__ import annotations

from model_svc.models.config import CheckpointError, Config
from model_svc.models.families import llama, mixtral, qwen2, qwen3
from model_svc.models.family import Family

FAMILIES = (llama.FAMILY, qwen2.FAMILY, qwen3.FAMILY, mixtral.FAMILY)


class UnknownArchitecture(CheckpointError):
    """No family here reads this checkpoint."""


def family_of(config: Config) -> Family:
    """Find the family that config.json's `architectures` names.

    Raises:
        UnknownArchitecture: there is none; the message lists those that can be served.
    """
    named = config.strings("architectures")
    for family in FAMILIES:
        if family.architecture in named:
            return family
    known = ", ".join(family.architecture for family in FAMILIES)
    found = ", ".join(named) if named else "missing"
    raise UnknownArchitecture(
        f"{config.name('architectures')} is {found}; this version serves {known}"
    )
