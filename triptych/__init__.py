"""Parts for users: command line, client library, local supervisor, load generator.

Importing this package costs nothing: the client's names are loaded when first used, so that the
command line starts fast. It imports the chassis and the contracts, never a service.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import would take a while
if TYPE_CHECKING:
    from typing import Any

    from triptych.client import (
        AsyncClient,
        Cancelled,
        CandidateText,
        Client,
        Completion,
        DeadlineExceeded,
        Delta,
        FieldViolation,
        FinishReason,
        InternalError,
        InvalidRequest,
        Load,
        Message,
        Model,
        NotFound,
        OnRetry,
        OptionError,
        Options,
        Overloaded,
        Prompt,
        PromptEcho,
        ReplicaLoad,
        TokenLogprob,
        Tokens,
        TriptychError,
        Unavailable,
        Usage,
    )

__all__ = [
    "AsyncClient",
    "Cancelled",
    "CandidateText",
    "Client",
    "Completion",
    "DeadlineExceeded",
    "Delta",
    "FieldViolation",
    "FinishReason",
    "InternalError",
    "InvalidRequest",
    "Load",
    "Message",
    "Model",
    "NotFound",
    "OnRetry",
    "OptionError",
    "Options",
    "Overloaded",
    "Prompt",
    "PromptEcho",
    "ReplicaLoad",
    "TokenLogprob",
    "Tokens",
    "TriptychError",
    "Unavailable",
    "Usage",
]


def __getattr__(name: str) -> Any:
    """Load the client library when one of its names is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from triptych import client

    return getattr(client, name)


def __dir__() -> list[str]:
    """Names of the package, those not loaded yet too."""
    return sorted({*globals(), *__all__})
