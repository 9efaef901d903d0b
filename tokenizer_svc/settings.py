"""Settings of the tokenizer service: `TRIPTYCH_TOKENIZER_*`."""

from __future__ import annotations

import dataclasses

from chassis.config import ServiceSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings(ServiceSettings):
    """Settings of the tokenizer service.

    Attributes:
        model: checkpoint folder, of which tokenizer.json and the chat template are read.
        workers: processes that encode, at least 1; with two or more, long prompts leave one free.
    """

    model: str
    workers: int = 2
