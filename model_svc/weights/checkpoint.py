"""Find a checkpoint and read what it says about itself; its weights are `model_svc.weights.loader`.

Invariant: whatever is wrong with a checkpoint ends in a `CheckpointError` of one line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_svc.models.config import CheckpointError, Config, read_object
from model_svc.models.family import Family
from model_svc.models.registry import family_of
from model_svc.models.spec import DecoderSpec
from model_svc.weights.generation_config import read_eos_token_ids, read_sampling_defaults

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointMissing",
    "open_checkpoint",
    "read_checkpoint",
    "resolve",
]

# What of a hub repository is fetched: no pickles, no code.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja"]


class CheckpointMissing(CheckpointError):
    """The folder, or a file that every checkpoint has, is not there."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint folder says about its model."""

    folder: Path
    name: str
    family: Family
    spec: DecoderSpec
    eos_token_ids: tuple[int, ...]
    """Ids of config.json and generation_config.json and the tokenizer's own, ascending."""
    dtype: str
    """What config.json says the weights are in, as "bfloat16"; "float32" where it says nothing."""
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
        """How many weights the model has; tied ones count once."""
        return self.spec.parameters


def open_checkpoint(model: str) -> Checkpoint:
    """Find and read a checkpoint; it is named for the last part of `model`.

    Args:
        model: a folder, or a hub id.

    Raises:
        CheckpointError: it cannot be found, or cannot be served.
    """
    return read_checkpoint(resolve(model), name=Path(model).expanduser().absolute().name)


def resolve(model: str) -> Path:
    """Find the folder of a checkpoint, fetching it from the hub where `model` is no folder.

    Args:
        model: a folder, or a hub id as `owner/name`.

    Raises:
        CheckpointMissing: it is neither, or cannot be fetched.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointMissing(f"{model} is a file: give the checkpoint folder that holds it")
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise CheckpointMissing(f"no checkpoint folder at {model}")
    return _fetch(model)


def _fetch(hub_id: str) -> Path:
    # Imported here: it takes a tenth of a second, and most starts are from a folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # The error of the HTTP library below, whichever it is in the version installed.
    transport_error: type[BaseException] = HfHubHTTPError.__mro__[1]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_HUB_FILES))
    except (OSError, ValueError, transport_error) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointMissing(
            f"no checkpoint folder at {hub_id}, and fetching it as a hub id failed: {reason}"
        ) from error


def read_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Read config.json, generation_config.json and what the tokenizer's files say of endings.

    Args:
        folder: in Hugging Face layout.
        name: what the model is called; None: as the folder.

    Raises:
        CheckpointError: a file is missing or malformed, or the model cannot be served.
    """
    if not folder.is_dir():
        raise CheckpointMissing(f"no checkpoint folder at {folder}")
    entries = read_object(folder / "config.json")
    if entries is None:
        raise CheckpointMissing(
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
