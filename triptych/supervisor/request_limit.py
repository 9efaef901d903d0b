"""Limit of the size of requests to a deployment's router.

gRPC holds a whole message before the router can look at it, so many large ones at once would fill
the memory. No legal request is larger than this limit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEXT_BYTES = 4096 << 10
"""The router's own bound of a text, unless the operator sets another."""

_OPERATORS = ("TRIPTYCH_ROUTER_MAX_TEXT_KIB", "TRIPTYCH_ROUTER_MAX_MESSAGE_MIB")
_SPARE_BYTES = 1 << 20  # what goes with the longest prompt
_ID_BYTES = 5
_SHRINKAGE = 4  # a normal form of Unicode makes of so many bytes one, at most
# What is a little too large is refused by the router, with the field's name; gRPC names none.
_ROOM = 2
_MIB = 1 << 20


def find_request_limit(checkpoint: Path, environment: Mapping[str, str] = os.environ) -> int | None:
    """Find the size in MiB that no legal request to `checkpoint` exceeds.

    Returns:
        The size; None if the files do not give it, or the operator sets the router's own bounds.
    """
    if any(name in environment for name in _OPERATORS):
        return None
    try:
        context = _read(checkpoint / "config.json")["max_position_embeddings"]
        longest_prompt = context * max(_longest_token(checkpoint), _ID_BYTES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the service that needs the file says what is wrong with it
    most_bytes = _ROOM * (max(TEXT_BYTES, longest_prompt) + _SPARE_BYTES)
    return int(-(-most_bytes // _MIB))


def _longest_token(checkpoint: Path) -> int:
    """Bytes of text that one token stands for at most."""
    tokenizer = _read(checkpoint / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):  # pairs of a token and its score
        vocabulary = (token for token, _ in vocabulary)
    added = (token["content"] for token in tokenizer.get("added_tokens") or ())
    longest = max(len(token.encode()) for tokens in (vocabulary, added) for token in tokens)
    return longest * (_SHRINKAGE if tokenizer.get("normalizer") else 1)


def _read(file: Path) -> Any:
    return json.loads(file.read_bytes())
