"""A random dense Llama of 5.8 million parameters, with the tokenizer of another checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.random_checkpoint import DecoderShape, write_checkpoint

TINY = DecoderShape(
    layers=6, hidden=256, heads=4, kv_heads=2, head_dim=64, intermediate=768, vocabulary=4096
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")


def write_tiny_checkpoint(folder: Path, *, tokenizer: Path) -> Path:
    """Write the checkpoint in bfloat16; return its folder.

    Args:
        folder: to be made.
        tokenizer: a checkpoint whose vocabulary has at most as many entries.
    """
    folder.mkdir()
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    write_checkpoint(folder, TINY)
    return folder
