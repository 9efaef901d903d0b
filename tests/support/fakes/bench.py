"""Stand-ins for a GPU and for the client of a process that measures on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.kernels.measuring.timing import Device
from bench.kernels.measuring.worker_client import Lost


class FakeBench:
    """Runs a function once; `turns_ms` are the times it reports."""

    def __init__(self, turns_ms: Sequence[float] = (3000.0, 3001.0)) -> None:
        self.turns_ms = turns_ms
        self.lengths_ms: list[float] = []

    def __call__(self, fn: Callable[[], Any], *, rep: float, return_mode: str) -> Sequence[float]:
        assert return_mode == "all"
        self.lengths_ms.append(rep)
        fn()
        return self.turns_ms


def cpu(bench: FakeBench | None = None, cache_bytes: int = 1) -> Device:
    """The processor, with a made-up clock."""
    return Device("cpu", cache_bytes, bench or FakeBench())


class FakeWorker:
    """Answers by a function, which may return a reason for `Lost`."""

    def __init__(self, answer: Callable[[Mapping[str, Any]], dict[str, Any] | Lost]) -> None:
        self._answer = answer
        self.requests: list[Mapping[str, Any]] = []
        self.device: dict[str, str] = {}

    def ask(self, request: Mapping[str, Any], most_s: float | None = None) -> dict[str, Any]:
        self.device = {"gpu": "GPU X", "torch": "2", "cuda": "13", "triton": "3.6"}
        self.requests.append(request)
        answer = self._answer(request)
        if isinstance(answer, Lost):
            raise answer
        return answer

    def close(self) -> None:
        pass
