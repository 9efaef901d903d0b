"""Client library of `triptych.v1.GenerationService`, blocking and asyncio.

Both clients build requests and read replies with the same code, so they never differ but in how
they wait.
"""

from __future__ import annotations

from triptych.client.asynchronous import AsyncClient
from triptych.client.blocking import Client
from triptych.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FieldViolation,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    TriptychError,
    Unavailable,
)
from triptych.client.options import Message, OptionError, Options, Prompt
from triptych.client.results import (
    CandidateText,
    Completion,
    Delta,
    FinishReason,
    Load,
    Model,
    PromptEcho,
    ReplicaLoad,
    TokenLogprob,
    Tokens,
    Usage,
)
from triptych.client.retry import OnRetry

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
