"""Assembly of the detokenizer service: vocabulary, registry, link to the model, servicer.

It is ready while it is joined to its model.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.errors import StartError
from chassis.links.channels import open_channel
from chassis.serving.server import Host, Mount
from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.model_link import LinkMetrics, LinkState, ModelLink
from detokenizer_svc.registry import Registry
from detokenizer_svc.servicer import DetokenizerServicer
from detokenizer_svc.settings import DetokenizerSettings
from protos import detokenizer_pb2_grpc
from protos.vocabulary.tokenizer_files import VocabularyError, load_tokenizer

_ANSWER_BYTES = 1024  # what an answer takes beside its text

SERVICE = "triptych.internal.v1.DetokenizerService"


def make_mount(settings: DetokenizerSettings) -> Mount:
    """Mount of the detokenizer service."""

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        spelling, vocab_size = read_vocabulary(Path(settings.model))
        registry = Registry(spelling)
        most_text_bytes = (settings.max_message_mib << 20) - _ANSWER_BYTES
        servicer = DetokenizerServicer(
            spelling, registry, vocab_size, host.stopping, most_text_bytes
        )
        detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(servicer, host.server)
        host.services.append(SERVICE)

        async def pass_on(state: LinkState) -> None:
            servicer.tell(state)
            await host.set_ready(state.linked)

        metrics = LinkMetrics(host.registry, lambda: len(registry))
        address = settings.model_address
        async with open_channel(address, max_message_mib=settings.max_message_mib) as channel:
            link = ModelLink(channel, address, registry, metrics, pass_on)
            servicer.attach(link)
            host.list_links = lambda: (link.describe(),)
            await host.set_ready(False)
            linking = asyncio.create_task(link.run())
            linking.add_done_callback(lambda task: _end_with(task, host))
            try:
                yield
            finally:
                linking.cancel()
                await asyncio.wait([linking])

    return mount


def read_vocabulary(folder: Path) -> tuple[Vocabulary, int]:
    """Read the vocabulary and its size.

    A model's vocabulary may be padded beyond its tokenizer's.

    Raises:
        StartError: the checkpoint's tokenizer is missing or malformed.
    """
    try:
        spelling = Vocabulary(load_tokenizer(folder))
    except VocabularyError as error:
        raise StartError(str(error)) from error
    return spelling, max(len(spelling), _padded_size(folder / "config.json"))


def _padded_size(config: Path) -> int:
    """The model's vocab_size; 0 if its configuration, which the model checks, is malformed."""
    try:
        size = json.loads(config.read_text(encoding="utf-8"))["vocab_size"]
    except (OSError, ValueError, LookupError, TypeError):
        return 0
    return size if isinstance(size, int) else 0


def _end_with(task: asyncio.Task[None], host: Host) -> None:
    """End the process upon an unforeseen failure of the link."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        host.end(error)
