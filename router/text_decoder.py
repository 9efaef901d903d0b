"""Text of token ids, from whichever replica's detokenizer answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from chassis.backoff import Backoff
from chassis.errors import Unavailable
from chassis.links.reconnecting_stream import PAUSE_FIRST_S, PAUSE_MOST_S
from router.placement.dispatcher import Dispatcher


class TextDecoder:
    """Decodes ids outside of generation: for Detokenize, and for prompts that are echoed."""

    def __init__(self, dispatcher: Dispatcher, recovery_s: float) -> None:
        """Wait `recovery_s` seconds at most for a detokenizer."""
        self._dispatcher = dispatcher
        self._recovery_s = recovery_s

    async def decode(
        self, request_id: str, ids: Sequence[int], *, skip_special_tokens: bool
    ) -> str:
        """Turn ids into text.

        Raises:
            Unavailable: no detokenizer answered.
            ServiceError: one failed.
        """
        pauses = Backoff(PAUSE_FIRST_S, PAUSE_MOST_S)
        try:
            async with asyncio.timeout(self._recovery_s):
                while True:
                    replica = await self._dispatcher.any_replica()
                    text = await replica.detokenizer.decode(
                        request_id,
                        ids,
                        skip_special_tokens=skip_special_tokens,
                        timeout_s=self._recovery_s,
                    )
                    if text is not None:
                        return text
                    # Its stream may not have ended yet; it must not be asked again at once.
                    await asyncio.sleep(pauses.next_s())
        except TimeoutError:
            raise Unavailable("the detokenizer is away") from None
