"""The device as the engine sees it: steps are launched in order, and collected in that order.

Invariant: a step sees all that the steps launched before it have written.
"""

from __future__ import annotations

from typing import Protocol

from model_svc.scheduling.step import StepInput, StepOutput


class Runner(Protocol):
    """A device that computes steps."""

    @property
    def depth(self) -> int:
        """Steps that may be in flight while the next is launched: 0 where `launch` computes."""

    def launch(self, step: StepInput) -> object:
        """Start `step`; where `depth` is above 0, without waiting for the device.

        Returns:
            A ticket to collect it by.
        """

    def collect(self, ticket: object) -> StepOutput:
        """Wait for the oldest step that was not collected, that of `ticket`."""
