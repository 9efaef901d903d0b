"""Calls of compiled functions: made at once, or taken down and made together.

A step makes a hundred calls of some microseconds each. Taken down, they are one: the interpreter's
lock is let go once, and threads are woken once. Invariant: what was taken down reads and writes the
tensors that it was taken down with, in that order.
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
    """The functions of a library, and memory for what they write."""

    def __init__(self, library: Library) -> None:
        """Call the functions of `library`."""
        self.library = library
        self._arena = Arena()
        self._taken: list[tuple[str, bytes]] | None = None

    @property
    def capturing(self) -> bool:
        """Whether calls are taken down, and nothing is computed."""
        return self._taken is not None

    def function(self, name: str) -> Function:
        """The function called `name`; while it is taken down, it returns 0."""
        run, address = self.library.function(name), self.library.address(name)

        def call(packed: bytes) -> int:
            if self._taken is None:
                return run(packed)
            self._taken.append((name, CALL.pack(address, len(packed)) + packed))
            return 0

        return call

    def empty(self, shape: tuple[int, ...] | torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Like `torch.empty`."""
        if self._taken is None:
            return torch.empty(shape, dtype=dtype)
        return self._arena.empty(shape, dtype)

    def compute_otherwise(self) -> None:
        """Tell that something is about to be computed by other means than these functions.

        Raises:
            NotTakenDown: calls are taken down.
        """
        if self._taken is not None:
            raise NotTakenDown

    def capture(self, compute: Callable[[], torch.Tensor]) -> CapturedCalls | None:
        """See `Operations.capture`."""
        taken = self._taken = []
        try:
            result = self._arena.without_lease(compute())
        except NotTakenDown:
            return None
        finally:
            self._taken = None
        return CapturedCalls(self.library.run_calls, taken, result, (compute, self._arena))


class CapturedCalls:
    """See `kernels.ops.Captured`."""

    def __init__(
        self,
        run: Function,
        taken: list[tuple[str, bytes]],
        result: torch.Tensor,
        owners: tuple[object, ...],
    ) -> None:
        """Run the calls that were `taken` by `run`.

        Args:
            run: the function that runs others.
            taken: names, and calls packed.
            result: what they write in the end.
            owners: of all memory that the calls lead to; kept for as long as this is.
        """
        self._run = run
        self._owners = owners
        self._names = [name for name, _ in taken]
        self._calls = np.frombuffer(b"".join(packed for _, packed in taken), np.uint8)
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


class NotTakenDown(Exception):
    """What is being captured computes by other means than the compiled functions."""
