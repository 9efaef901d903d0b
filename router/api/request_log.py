"""The end of each request: its metrics and its one line in the log."""

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
    """Follows one request for a block; set `request` once it runs.

    A call that runs nothing is logged with its `method`, and not counted among the requests.
    """

    def __init__(
        self, metrics: RouterMetrics, context: aio.ServicerContext[Any, Any], method: str = ""
    ) -> None:
        self.request: RouterRequest | None = None
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
        if self.request is not None:
            line |= self._measure(self.request)
        if isinstance(error, ServiceError):
            line["cause"] = str(error)
        log.info("request ended", extra=line)

    def _measure(self, request: RouterRequest) -> dict[str, Any]:
        """Count its tokens and times; return their part of the log line."""
        prompt_tokens, output_tokens = request.plan.prompt_tokens, request.completion_tokens
        self._metrics.prompt_tokens.inc(prompt_tokens)
        self._metrics.output_tokens.inc(output_tokens)
        line = {"prompt_tokens": prompt_tokens, "output_tokens": output_tokens}
        if request.first_output is None or request.last_output is None:
            return line
        first_s = request.first_output - self._arrived
        self._metrics.first_token.observe(first_s)
        longest = max(len(candidate.ids) for candidate in request.candidates)
        if longest > 1:
            span_s = request.last_output - request.first_output
            self._metrics.per_token.observe(span_s / (longest - 1))
        finish = ",".join(candidate.finish.name.lower() for candidate in request.candidates)
        return {**line, "ttft_ms": _ms(first_s), "finish": finish}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
