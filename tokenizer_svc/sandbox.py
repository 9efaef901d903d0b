"""Sandbox of chat templates: Jinja2's immutable one, bounded in time and memory.

Nothing that a template does with a request's data ends the process: a step that would take long
without being interruptible is refused, and the others are interrupted.
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Any

import jinja2
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

# Enough for any number a prompt spells; computing with larger ones cannot be interrupted.
_INTEGER_BITS = 1 << 16
_MOST_DIGITS = 300  # beyond a double's
_REPEAT_S = 1.0


class Refusal(jinja2.TemplateError):
    """The template called raise_exception."""


class TookTooLong(BaseException):
    """The block exceeded its time limit; no template or filter catches this."""


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The environment that Hugging Face checkpoints write their templates for."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
        )
        self.filters["tojson"] = _to_json
        self.filters["round"] = _round
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _format_now

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Multiply or raise to a power, unless the integer would be a large one."""
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            bits = bits * right if operator == "**" else bits + right.bit_length()
            if bits > _INTEGER_BITS:
                raise OverflowError("an integer is too large")
        return super().call_binop(context, operator, left, right)


@contextmanager
def bounded(cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Bound the block's own CPU time and the memory it adds. Only in the main thread.

    A busy machine does not count. The bound of memory is the process's.

    Raises:
        TookTooLong: the block ran for `cpu_s`.
        MemoryError: it would have added more than `memory_bytes`.
    """
    with _bounded_time(cpu_s), _bounded_memory(memory_bytes):
        yield


@contextmanager
def _bounded_time(seconds: float) -> Iterator[None]:
    def expire(number: int, frame: FrameType | None) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGVTALRM, expire)
    # Again and again: what is raised inside a destructor is lost.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _bounded_memory(more_bytes: int) -> Iterator[None]:
    with open("/proc/self/statm", "rb", buffering=0) as file:
        pages = int(file.read().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [limit for limit in before if limit != resource.RLIM_INFINITY]
    soft = min([pages * resource.getpagesize() + more_bytes, *bounds])
    resource.setrlimit(resource.RLIMIT_AS, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class _GenerationBlocks(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant wrote, for training; here it is only a scope."""

    tags: set[str] = {"generation"}  # noqa: RUF012  (the name and type are Jinja2's)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("write")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def write(self, caller: Callable[[], str]) -> str:
        """Write the block's text."""
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _round(value: Any, precision: int = 0, method: Any = "common") -> float:
    """Jinja2's `round`, which raises 10 to the power of `precision`."""
    if abs(precision) > _MOST_DIGITS:
        raise OverflowError("round has too many digits")
    return jinja2.filters.do_round(value, precision, method)


def _raise_exception(message: str) -> None:
    raise Refusal(message)


def _format_now(format_: str) -> str:
    return datetime.now().strftime(format_)
