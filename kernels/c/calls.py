"""Calls of compiled functions: made at once, or recorded and made together.

A step makes a hundred calls of some microseconds each. Recorded, they are one: the interpreter's
lock is let go once, and threads are woken once. Invariant: a recorded call reads and writes the
tensors that it was recorded with, in the order of recording.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from kernels.c.arena import Arena
from kernels.c.arguments import CALL, RUN_CALLS
from kernels.c.library import Function, Library
from kernels.ops import Outgrown

_OUTGROWN = "plan_attention"


class Calls:
    """The functions of a library, and memory for their results."""

    def __init__(self, library: Library) -> None:
        """Call the functions of `library`."""
        self.library = library
        self._arena = Arena()
        self._recorded: list[tuple[str, bytes]] | None = None

    @property
    def capturing(self) -> bool:
        """Calls are recorded now, and nothing is computed."""
        return self._recorded is not None

    def function(self, name: str) -> Function:
        """The function called `name`; while calls are recorded, it returns 0."""
        run, address = self.library.function(name), self.library.address(name)

        def call(packed: bytes) -> int:
            if self._recorded is None:
                return run(packed)
            self._recorded.append((name, CALL.pack(address, len(packed)) + packed))
            return 0

        return call

    def empty(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Like `torch.empty`."""
        if self._recorded is None:
            return torch.empty(shape, dtype=dtype)
        return self._arena.empty(shape, dtype)

    def compute_otherwise(self) -> None:
        """Announce a computation by other means than these functions.

        Raises:
            NotRecorded: calls are recorded now.
        """
        if self._recorded is not None:
            raise NotRecorded

    def capture(self, compute: Callable[[], torch.Tensor]) -> CapturedCalls | None:
        """See `Operations.capture`."""
        recorded = self._recorded = []
        try:
            result = self._arena.without_lease(compute())
        except NotRecorded:
            return None
        finally:
            self._recorded = None
        return CapturedCalls(self.library.run_calls, recorded, result, (compute, self._arena))


class CapturedCalls:
    """See `kernels.ops.Captured`."""

    def __init__(
        self,
        run: Function,
        recorded: list[tuple[str, bytes]],
        result: torch.Tensor,
        owners: tuple[object, ...],
    ) -> None:
        """Run `recorded` calls by `run`.

        Args:
            run: the function that runs others.
            recorded: names, and calls packed.
            result: the last tensor that they write.
            owners: of all memory that the calls lead to; kept as long as this.
        """
        self._run = run
        self._owners = owners
        self._names = [name for name, _ in recorded]
        self._calls = np.frombuffer(b"".join(packed for _, packed in recorded), np.uint8)
        where = self._calls.ctypes.data, len(self._calls)
        self._arguments = RUN_CALLS.pack(torch.get_num_threads(), *where)
        self._result = result

    def replay(self) -> torch.Tensor:
        """See `Captured.replay`."""
        refused = self._run(self._arguments)
        if refused < 0:
            return self._result
        name = self._names[refused]
        if name == _OUTGROWN:
            raise Outgrown
        raise IndexError(f"{name}: a token, position or slot that does not exist")


class NotRecorded(Exception):
    """A computation that is being captured uses other means than the compiled functions."""
