"""One request's way through the services, again from where it was whenever one of them is lost.

Whatever ends it, its slab, its place and what the services know of it are given back.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from grpc import aio

from chassis.backoff import Backoff
from chassis.errors import RequestFailed, Unavailable
from chassis.links.reconnecting_stream import PAUSE_FIRST_S, PAUSE_MOST_S
from chassis.serving.intake import let_request_go
from protos import detokenizer_pb2, generation_pb2
from router.admission.demand import Ticket
from router.api.message_limits import Sizes, fit_answer
from router.links.peer_errors import ReplicaLost, from_peer, is_away
from router.placement.dispatcher import Dispatcher
from router.prompts import PromptReader, without_prompt
from router.requests import validation
from router.requests.delta_buffer import MERGED
from router.requests.prompt_arena import Prompt
from router.requests.request import RouterRequest, least_demand


class RequestRunner:
    """Carries requests from their arrival to their end."""

    def __init__(
        self,
        prompts: PromptReader,
        dispatcher: Dispatcher,
        sizes: Callable[[], Sizes],
        *,
        recovery_s: float,
        generation_defaults: bool = False,
    ) -> None:
        """Use these.

        Args:
            prompts: reads prompts.
            dispatcher: grants places.
            sizes: asked how large an answer may be.
            recovery_s: how long to wait for a text where a detokenizer is away, in seconds.
            generation_defaults: the checkpoint's sampling parameters hold where none are asked for.
        """
        self._prompts = prompts
        self._dispatcher = dispatcher
        self._sizes = sizes
        self._recovery_s = recovery_s
        self._generation_defaults = generation_defaults
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def carry(
        self,
        request: generation_pb2.GenerateRequest,
        request_id: str,
        steps_apart: int,
        deadline: float | None = None,
    ) -> AsyncIterator[RouterRequest]:
        """Carry `request` to its end; inside the block its outbox fills.

        The prompt as it was sent is dropped once it is read: it may be as long as a message.

        Args:
            request: as sent.
            request_id: its id.
            steps_apart: steps that the outbox keeps apart; 1: all are one message.
            deadline: when it must have ended, by the loop's clock; None: whenever it does.

        Raises:
            ServiceError: it cannot run, or its tokenizer stayed away.
        """
        validation.check_request(request)
        with self._dispatcher.arrival(request.priority, deadline) as ticket:
            self._dispatcher.expect(ticket, least_demand(request))
            limits = await self._dispatcher.limits()
            validation.check_against(request, limits)
            reading = self._prompts.read(request, request_id, limits)
            request = without_prompt(request)
            prompt = await reading
            let_request_go()
            try:
                plan = self._plan(request, prompt, limits, whole=steps_apart == MERGED)
                live = RouterRequest(next(self._numbers), request_id, plan, prompt, steps_apart)
                async with _meanwhile(self._run(live, ticket), live):
                    yield live
            finally:
                prompt.close()

    async def decode(self, request: detokenizer_pb2.DecodeRequest) -> str:
        """Turn ids into text, by whichever detokenizer answers.

        Raises:
            Unavailable: none did.
            ServiceError: it failed.
        """
        pauses = Backoff(PAUSE_FIRST_S, PAUSE_MOST_S)
        try:
            async with asyncio.timeout(self._recovery_s):
                while True:
                    replica = await self._dispatcher.any_replica()
                    try:
                        answer = await replica.detokenizer.decode(request, timeout=self._recovery_s)
                        return answer.text
                    except aio.AioRpcError as error:
                        if not is_away(error):
                            raise from_peer(error, "detokenizer", "token_ids") from error
                    # Its stream may not have ended yet; it must not be asked again at once.
                    await asyncio.sleep(pauses.next_s())
        except TimeoutError:
            raise Unavailable("the detokenizer is away") from None

    def _plan(
        self,
        request: generation_pb2.GenerateRequest,
        prompt: Prompt,
        limits: validation.Limits,
        *,
        whole: bool,
    ) -> validation.Plan:
        if not self._generation_defaults:
            limits = replace(limits, defaults=None)
        plan = validation.resolve(request, prompt.count, limits)
        bounded = request.stop.HasField("max_tokens")
        return fit_answer(plan, self._sizes(), whole=whole, bounded=bounded)

    async def _run(self, live: RouterRequest, ticket: Ticket) -> None:
        """Run `live` to its end, on as many replicas as it takes."""
        await self._fill_echo(live)
        while True:
            placement = await self._dispatcher.place(ticket, live.demand)
            try:
                await placement.run(live)
                return
            except ReplicaLost:
                live.attempt += 1
            try:
                await placement.replica.check(live)
            except RequestFailed:
                self._dispatcher.ask_again()  # others are cleared by it
                raise

    async def _fill_echo(self, live: RouterRequest) -> None:
        """Turn a prompt of ids into text, where it is to be echoed."""
        output, prompt = live.plan.output, live.prompt
        if not output.echo or prompt.text:
            return
        decode = detokenizer_pb2.DecodeRequest(
            request_id=live.request_id,
            token_ids=prompt.ids(),
            skip_special_tokens=skips_special_tokens(output),
        )
        prompt.text = await self.decode(decode)


@asynccontextmanager
async def _meanwhile(run: Coroutine[Any, Any, None], live: RouterRequest) -> AsyncIterator[None]:
    """Have `run` go on beside the block; whatever it fails with is what `live` ends with."""

    def ended(task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            live.fail(error)

    task = asyncio.create_task(run)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def skips_special_tokens(
    options: generation_pb2.OutputOptions | generation_pb2.DetokenizeRequest,
) -> bool:
    """Whether special tokens are left out of the text; they are unless told otherwise."""
    return options.skip_special_tokens if options.HasField("skip_special_tokens") else True
