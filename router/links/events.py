"""Events that the links of a replica emit; the replica applies them in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chassis.errors import ServiceError
from chassis.links.reconnecting_stream import Ending
from router.requests.results import Delta


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The model takes requests; its process is `incarnation`."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The model has reported its load."""


@dataclass(frozen=True, slots=True)
class SubmitRefused:
    """The model does not run a request."""

    handle: int
    attempt: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class ModelLost:
    """The Run stream has ended, or was refused before the model was `ready`."""

    ending: Ending
    was_ready: bool


@dataclass(frozen=True, slots=True)
class DetokenizerReady:
    """The detokenizer takes registrations, and has none."""


@dataclass(frozen=True, slots=True)
class UpstreamChanged:
    """The detokenizer has found or lost its model."""


@dataclass(frozen=True, slots=True)
class Registered:
    """The detokenizer expects the tokens of a request."""

    handle: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Text:
    """Deltas of one step."""

    deltas: Iterable[Delta]


@dataclass(frozen=True, slots=True)
class DetokenizerLost:
    """The Watch stream has ended, or was refused."""

    ending: Ending


ModelEvent = ModelReady | ModelLoad | SubmitRefused | ModelLost
DetokenizerEvent = DetokenizerReady | UpstreamChanged | Registered | Text | DetokenizerLost
