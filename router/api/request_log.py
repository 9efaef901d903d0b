"""What each request came to: its metrics and its one line in the log."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import Any, Self

from grpc import aio

from chassis.errors import ServiceError
from chassis.serving.calls import outcome_of
from router.metrics import RouterMetrics
from router.requests.request import RouterRequest

log = logging.getLogger(__name__)


class RequestLog:
    """Follows one request for a block; set `live` once it runs.

    A call that runs nothing is told by its `method`, and is not counted among the requests.
    """

    def __init__(
        self, metrics: RouterMetrics, context: aio.ServicerContext[Any, Any], method: str = ""
    ) -> None:
        self.live: RouterRequest | None = None
        self._method = method
        self._metrics = metrics
        self._context = context
        self._arrived = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        outcome = outcome_of(error, self._context)
        duration_s = time.monotonic() - self._arrived
        line: dict[str, Any] = {"outcome": outcome, "duration_ms": _ms(duration_s)}
        if self._method:
            line = {"method": self._method, **line}
        else:
            self._metrics.requests.labels(outcome).inc()
            self._metrics.whole.observe(duration_s)
        if self.live is not None:
            line |= self._measure(self.live)
        if isinstance(error, ServiceError):
            line["cause"] = str(error)
        log.info("request ended", extra=line)

    def _measure(self, live: RouterRequest) -> dict[str, Any]:
        """Count its tokens and times; return what the log says of them."""
        prompt_tokens, output_tokens = live.plan.prompt_tokens, live.completion_tokens
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.output_tokens.inc(output_tokens)
        line = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
        if live.first_output is None or live.last_output is None:
            return line
        first_s = live.first_output - self._arrived
        self._metrics.first_token.observe(first_s)
        longest = max(len(candidate.ids) for candidate in live.candidates)
        if longest > 1:
            span_s = live.last_output - live.first_output
            self._metrics.per_token.observe(span_s / (longest - 1))
        finish = ",".join(candidate.finish.name.lower() for candidate in live.candidates)
        return {**line, "ttft_ms": _ms(first_s), "finish": finish}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
