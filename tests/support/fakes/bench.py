"""Stand-ins for a GPU and for the process that measures on one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.kernels.device import Work
from bench.kernels.errand import Lost


class Cpu:
    """Does what it is told, and makes up how long it took."""

    kind = "cpu"

    def __init__(self, replay_us: float = 3e6, cache_bytes: int = 1) -> None:
        self.cache_bytes = cache_bytes
        self.replay_us = replay_us
        self.captured = 0
        self.replayed: list[int] = []

    def warm(self, work: Work) -> None:
        work()

    def capture(self, work: Work) -> Work:
        self.captured += 1
        return work

    def times_us(self, replay: Work, count: int) -> list[float]:
        replay()
        self.replayed.append(count)
        return [self.replay_us + i for i in range(count)]


class Asked:
    """Answers as it is told to; an answer may be a reason to be lost for."""

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
