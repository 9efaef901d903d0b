"""Find the folder of a checkpoint, fetching it from the hub where it is none yet."""

from __future__ import annotations

import re
from pathlib import Path

from chassis.errors import StartError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ("*.safetensors", "*.json", "*.jinja")
_NEEDED = "config.json"


def find_checkpoint(model: str) -> Path:
    """The folder that `model` names: a path, or the local copy of a hub id.

    Raises:
        StartError: it is neither, or the hub cannot be reached.
    """
    if not model:
        raise StartError("--model is empty; it wants the folder of a checkpoint, or a hub id")
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / _NEEDED).is_file():
            raise StartError(f"{model} holds no {_NEEDED}; --model wants a Hugging Face checkpoint")
        return path.resolve()
    if path.exists():
        raise StartError(f"{model} is a file; --model wants the folder of a checkpoint")
    if not _HUB_ID.fullmatch(model):
        raise StartError(f"there is no folder {model}, and it is no hub id such as OWNER/NAME")
    return _fetch(model)


def _fetch(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(model, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise StartError(
            f"there is no folder {model}, and the hub does not give it ({reason}); "
            f"check the path, the id or the network"
        ) from error
