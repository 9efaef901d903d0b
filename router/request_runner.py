"""Runs requests through the services, again from where they were whenever a service is lost.

Whatever ends a request, its slab, its place and its state in the services are given back.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from chassis.errors import RequestFailed
from chassis.serving.intake import let_request_go
from router.admission.demand import Ticket
from router.links.peer_errors import ReplicaLost
from router.placement.dispatcher import Dispatcher
from router.prompts import PromptReader
from router.requests import validation
from router.requests.delta_buffer import MERGED
from router.requests.generation_request import GenerationRequest
from router.requests.prompt_arena import Prompt
from router.requests.request import RouterRequest, least_demand
from router.requests.sizes import Sizes, fit_answer
from router.text_decoder import TextDecoder


class RequestRunner:
    """Runs requests from their arrival to their end."""

    def __init__(
        self,
        prompts: PromptReader,
        dispatcher: Dispatcher,
        decoder: TextDecoder,
        sizes: Callable[[], Sizes],
        *,
        generation_defaults: bool = False,
    ) -> None:
        """Use these.

        Args:
            prompts: reads prompts.
            dispatcher: grants places.
            decoder: turns prompts of ids into text, where they are echoed.
            sizes: asked for the largest answer.
            generation_defaults: the checkpoint's sampling parameters hold where none are set.
        """
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._decoder = decoder
        self._sizes = sizes
        self._generation_defaults = generation_defaults
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def run(
        self,
        request: GenerationRequest,
        request_id: str,
        steps_apart: int,
        deadline: float | None = None,
    ) -> AsyncIterator[RouterRequest]:
        """Run `request` to its end; inside the block its buffer fills.

        The prompt as it was sent is dropped once it is read: it may be as long as a message.

        Args:
            request: as its adapter has made it.
            request_id: its id.
            steps_apart: steps that the buffer keeps apart; 1: all are one message.
            deadline: time by which it must have ended, by the loop's clock; None: any.

        Raises:
            ServiceError: it cannot run, or its tokenizer stayed away.
        """
        validation.check_request(request)
        with self._dispatcher.arrival(request.priority, deadline) as ticket:
            self._dispatcher.expect(ticket, least_demand(request))
            limits = await self._dispatcher.limits()
            validation.check_against(request, limits)
            reading = self._prompts.read(request, request_id, limits)
            request = request.without_prompt()
            prompt = await reading
            let_request_go()
            try:
                plan = self._plan(request, prompt, limits, whole=steps_apart == MERGED)
                running = RouterRequest(next(self._numbers), request_id, plan, prompt, steps_apart)
                async with _meanwhile(self._run(running, ticket), running):
                    yield running
            finally:
                prompt.close()

    def _plan(
        self, request: GenerationRequest, prompt: Prompt, limits: validation.Limits, *, whole: bool
    ) -> validation.Plan:
        if not self._generation_defaults and limits.defaults is not None:
            limits = replace(limits, defaults=None)
        plan = validation.resolve(request, prompt.count, limits)
        bounded = request.stop.max_tokens is not None
        return fit_answer(plan, self._sizes(), whole=whole, bounded=bounded)

    async def _run(self, request: RouterRequest, ticket: Ticket) -> None:
        """Run `request` to its end, on as many replicas as it takes."""
        await self._fill_echo(request)
        while True:
            placement = await self._dispatcher.place(ticket, request.demand)
            try:
                await placement.run(request)
                return
            except ReplicaLost:
                request.attempt += 1
            try:
                await placement.replica.check(request)
            except RequestFailed:
                self._dispatcher.ask_again()  # others are cleared by it
                raise

    async def _fill_echo(self, request: RouterRequest) -> None:
        """Turn a prompt of ids into text, where it is to be echoed."""
        output, prompt = request.plan.output, request.prompt
        if output.echo and not prompt.text:
            prompt.text = await self._decoder.decode(
                request.request_id, prompt.ids(), skip_special_tokens=output.skip_special_tokens
            )


@asynccontextmanager
async def _meanwhile(run: Coroutine[Any, Any, None], request: RouterRequest) -> AsyncIterator[None]:
    """Have `run` go on beside the block; `request` ends with its failure, if it fails."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            request.fail(error)

    task = asyncio.create_task(run)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
