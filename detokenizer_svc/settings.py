"""Settings of the detokenizer service: `TRIPTYCH_DETOKENIZER_*`."""

from __future__ import annotations

import dataclasses

from chassis.config import ServiceSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetokenizerSettings(ServiceSettings):
    """Settings of the detokenizer service.

    Attributes:
        model: checkpoint folder, of which tokenizer.json is read.
        model_address: address of the model service whose token frames it reads.
    """

    model: str
    model_address: str
