"""The folder of a checkpoint, fetched from the hub if the name is that of a hub repository.

The commands and the model service both resolve names here, so that they agree on each.
"""

from __future__ import annotations

import re
from pathlib import Path

from chassis.errors import StartError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# No pickles, no code.
_WANTED = ("*.safetensors", "*.json", "*.jinja")
_NEEDED = "config.json"


class CheckpointNotFound(StartError):
    """No checkpoint has that name; the message is one line with the remedy."""


def find_checkpoint(model: str) -> Path:
    """Find the folder of a checkpoint.

    Args:
        model: a folder, or a hub id such as OWNER/NAME.

    Returns:
        The folder, absolute; of a hub id, its local copy.

    Raises:
        CheckpointNotFound: it is neither, or cannot be fetched.
    """
    if not model:
        raise CheckpointNotFound("the model is empty; give the folder of a checkpoint or a hub id")
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / _NEEDED).is_file():
            raise CheckpointNotFound(
                f"{model} holds no {_NEEDED}; give a checkpoint folder in Hugging Face layout"
            )
        return path.resolve()
    if path.exists():
        raise CheckpointNotFound(f"{model} is a file; give the checkpoint folder that holds it")
    # "./here" and "../there" match the form of a hub id.
    if model.startswith((".", "~")) or not _HUB_ID.fullmatch(model):
        raise CheckpointNotFound(
            f"there is no folder {model}, and it is no hub id such as OWNER/NAME"
        )
    return _fetch(model)


def _fetch(hub_id: str) -> Path:
    # Imported here: it takes a tenth of a second, and most starts are from a folder.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    # The error of the HTTP library below, whichever it is in the version installed.
    transport_error: type[BaseException] = HfHubHTTPError.__mro__[1]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(_WANTED)))
    except (OSError, ValueError, transport_error) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointNotFound(
            f"there is no folder {hub_id}, and the hub does not give it ({reason}); "
            "check the path, the id or the network"
        ) from error
