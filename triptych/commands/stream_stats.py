"""Sum of one streamed completion: its text, its cost, its times.

Times start when the tally is made, just before the request is sent.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from triptych.client import CandidateText, Delta, Usage


@dataclass
class StreamStats:
    """Collects the deltas of a stream."""

    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    last: float | None = None
    request_id: str = ""
    parts: list[CandidateText] = field(default_factory=list)
    usage: Usage | None = None

    def see(self, delta: Delta) -> None:
        """Add the next message."""
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.request_id = delta.request_id
        self.parts += (part for part in delta.candidates if part.index == 0)
        self.usage = delta.usage or self.usage

    @property
    def text(self) -> str:
        """Text of the first candidate so far."""
        return "".join(part.text for part in self.parts)

    @property
    def ttft_s(self) -> float | None:
        """Seconds until the first message; None before it."""
        return None if self.first is None else self.first - self.started

    @property
    def tokens_per_s(self) -> float | None:
        """Output tokens after the first message, over the time they took; None for fewer than 2."""
        if self.usage is None or self.first is None or self.last is None:
            return None
        if self.usage.completion_tokens < 2 or self.last <= self.first:
            return None
        return (self.usage.completion_tokens - 1) / (self.last - self.first)

    def summary(self) -> dict[str, Any]:
        """All of it, as plain data."""
        last = self.parts[-1] if self.parts else CandidateText(0, "")
        usage = self.usage or Usage(0, 0, 0)
        return {
            "request_id": self.request_id,
            "text": self.text,
            "token_ids": [one for part in self.parts for one in part.token_ids],
            "finish_reason": last.finish_reason.value if last.finish_reason else None,
            "matched_stop": last.matched_stop,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "cached_prompt_tokens": usage.cached_prompt_tokens,
            },
            "ttft_ms": None if self.ttft_s is None else round(self.ttft_s * 1000, 3),
            "tokens_per_s": None if self.tokens_per_s is None else round(self.tokens_per_s, 2),
        }

    def sentence(self) -> str:
        """Counts and times for people."""
        usage = self.usage or Usage(0, 0, 0)
        parts = [f"{usage.prompt_tokens} prompt tokens", f"{usage.completion_tokens} output tokens"]
        if self.ttft_s is not None:
            parts.append(f"TTFT {self.ttft_s * 1000:.1f} ms")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:.1f} tokens/s")
        return ", ".join(parts)
