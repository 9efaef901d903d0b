"""The deployment's model, and its limits over all replicas that run it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from chassis.errors import Unavailable
from router.links.model_link import ModelLink
from router.requests.results import ModelInfo
from router.requests.validation import Limits

log = logging.getLogger(__name__)

AWAY = "no replica is there"


class ModelLimits:
    """Limits that a request must keep to run on any replica.

    Attributes:
        known: the limits; None: no replica has described its model yet.
    """

    def __init__(self, recovery_s: float) -> None:
        """Wait `recovery_s` seconds at most for a replica to describe its model."""
        self._recovery_s = recovery_s
        self._described = asyncio.Event()
        self.known: Limits | None = None

    async def wait(self) -> Limits:
        """The limits, once a replica has described its model.

        Raises:
            Unavailable: none did within the recovery limit.
        """
        if self.known is None:
            try:
                async with asyncio.timeout(self._recovery_s):
                    await self._described.wait()
            except TimeoutError:
                raise Unavailable(AWAY) from None
        assert self.known is not None
        return self.known

    def fits(self, info: ModelInfo | None) -> bool:
        """Tell whether a replica runs the deployment's model."""
        return info is not None and self.known is not None and info.name == self.known.model

    def learn(self, links: Sequence[ModelLink]) -> None:
        """Read the models of the replicas; the first one seen names the deployment's."""
        models = [(link.info, link.kv_slots) for link in links if link.info is not None]
        name = self.known.model if self.known else models[0][0].name
        fitting = [(info, slots) for info, slots in models if info.name == name]
        if len(fitting) < len(models):
            log.error("a replica runs another model and is left out", extra={"model": name})
        if fitting:
            self.known = Limits(
                model=name,
                context_length=min(info.context_length for info, _ in fitting),
                vocab_size=min(info.vocab_size for info, _ in fitting),
                kv_slots=min(slots for _, slots in fitting),
                defaults=fitting[0][0].defaults,
            )
            self._described.set()
