"""Number of threads that compute a step.

A small step is over before a second thread has woken, and the core that it would have taken serves
the other processes of the deployment meanwhile.
"""

from __future__ import annotations

import torch

# Measured through a whole deployment on two cores, with a model of 6 million parameters: from 1 to
# 64 streams two threads are no faster, and at 32 they are slower by a tenth.
ALONE_BELOW = 4e8
"""Multiplications of a step below which one thread computes it."""


def most_threads(asked: int, cpus: int, *, sharers: int) -> int:
    """Threads that a step may take at most.

    Args:
        asked: what the operator asked for; 0: one for each of this process's share of the CPUs.
        cpus: that the process may use.
        sharers: model processes that divide these.
    """
    return asked or max(1, cpus // sharers)


class ThreadChoice:
    """Sets torch's threads before each step; owned by the thread that runs the steps."""

    def __init__(self, parameters: int, most: int) -> None:
        """Choose between one thread and `most` for a model of so many `parameters`."""
        self._parameters = parameters
        self._most = most

    def choose(self, tokens: int) -> int:
        """Threads for a step of `tokens`."""
        return 1 if tokens * self._parameters < ALONE_BELOW else self._most

    def apply(self, tokens: int) -> None:
        """Have torch compute a step of `tokens` on the threads chosen."""
        torch.set_num_threads(self.choose(tokens))
