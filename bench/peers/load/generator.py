"""The load generator, a process of its own: `python -m bench.peers.load.generator SPEECH`.

It reads a cell a line and writes its figures, a line each. It starts before the server that it
loads, so that its own start is in no figure.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from bench.peers.load.senders import Answer, Sender, connected
from triptych.load.measures import Figures, summarise

WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Task:
    """Load that one line asks for.

    Attributes:
        address: of the server, HOST:PORT.
        streams: requests in flight.
        output_tokens: length of every answer.
        prompts: one a request.
        warm_up: prompts sent before, for a few tokens each, and not counted.
    """

    address: str
    streams: int
    output_tokens: int
    prompts: tuple[str, ...]
    warm_up: tuple[str, ...] = ()

    def as_line(self) -> str:
        """The line, with its end."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Task:
        """The task of a line that `as_line` has made."""
        found = json.loads(line)
        return cls(
            found["address"],
            found["streams"],
            found["output_tokens"],
            tuple(found["prompts"]),
            tuple(found["warm_up"]),
        )


async def run(speech: str, task: Task) -> dict[str, Any]:
    """Run one cell; its figures as plain data.

    Besides those of `Figures`: `first_message_at_s` on the machine's monotonic clock,
    `prompt_tokens` as the server counts them, `messages_per_token`, and `client_cpu_s`.
    """
    async with connected(speech, task.address) as sender:
        await _loop(sender, task.warm_up, task.streams, WARM_UP_TOKENS)
        started, cpu = time.perf_counter(), time.process_time()
        answers = await _loop(sender, task.prompts, task.streams, task.output_tokens)
        wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    figures = summarise((one.times for one in answers), wall_s, task.streams)
    return {
        **figures.as_json(),
        "first_message_at_s": started + min(one.times.ttft_s for one in answers),
        "prompt_tokens": sum(one.prompt_tokens for one in answers),
        "messages_per_token": _messages_per_token(figures),
        "client_cpu_s": cpu_s,
    }


def _messages_per_token(figures: Figures) -> float | None:
    if not figures.output_tokens:
        return None
    return figures.messages_per_s * figures.wall_s / figures.output_tokens


async def _loop(
    sender: Sender, prompts: Sequence[str], streams: int, output_tokens: int
) -> list[Answer]:
    """Send all prompts with so many in flight; each stream begins where one ends."""
    waiting = iter(prompts)
    answers: list[Answer] = []
    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(_work(sender, waiting, answers, output_tokens))
    return answers


async def _work(
    sender: Sender, waiting: Iterator[str], answers: list[Answer], output_tokens: int
) -> None:
    for prompt in waiting:
        answers.append(await sender.send(prompt, output_tokens))


def main(speech: str) -> None:
    """Answer tasks until the input ends."""
    if speech != "triptych":
        import aiohttp  # noqa: F401  (so that the first request does not wait for it)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(uvloop.run(run(speech, Task.from_line(line)))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
