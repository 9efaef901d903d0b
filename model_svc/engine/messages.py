"""Commands to the engine and its reports; plain data that crosses threads."""

from __future__ import annotations

from dataclasses import dataclass

from model_svc.engine.request import RequestSpec
from protos.token_frame import TokenFrame


@dataclass(frozen=True, slots=True)
class Start:
    """Run a request; one with the same handle is dropped first."""

    spec: RequestSpec


@dataclass(frozen=True, slots=True)
class Stop:
    """End a request, or one of its candidates, where it is."""

    handle: int
    candidate: int | None


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a request and its rows."""

    handle: int


@dataclass(frozen=True, slots=True)
class ForgetRouter:
    """Drop all requests of a router, by the upper half of their handles."""

    router: int


@dataclass(frozen=True, slots=True)
class Resend:
    """Send a candidate's rows again, to the outlet `target`."""

    handle: int
    attempt: int
    candidate: int
    position: int
    prompt_position: int
    target: int


@dataclass(frozen=True, slots=True)
class Quit:
    """End the engine after the step that runs."""


Command = Start | Stop | Forget | ForgetRouter | Resend | Quit


@dataclass(frozen=True, slots=True)
class Load:
    """Load of the engine.

    Attributes:
        starts: router → Start commands it has seen of it.
        running: sequences that hold slots.
        waiting: sequences that hold none.
        used_slots: KV slots held.
        steps: engine steps so far.
        step_seconds: time spent in them.
    """

    starts: dict[int, int]
    running: int
    waiting: int
    used_slots: int
    steps: int
    step_seconds: float


@dataclass(frozen=True, slots=True)
class Report:
    """Outcome of a step or a command.

    Attributes:
        frame: new rows; None where there are none.
        target: the outlet that `frame` is for; None: all.
        load: the load where it changed enough to tell.
    """

    frame: TokenFrame | None
    target: int | None
    load: Load | None
