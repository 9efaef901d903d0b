"""The model's gRPC face where callers come and go."""

import asyncio
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import grpc
import numpy as np
import pytest
from grpc import aio
from prometheus_client import CollectorRegistry

from chassis.errors import AlreadyTaken
from model_svc.metrics import ModelMetrics
from model_svc.serving.publisher import ReportPublisher
from model_svc.serving.servicer import ModelServicer, Rings
from model_svc.serving.submission import Limits
from protos import memory_pb2, model_pb2

ROUTER = 7


class Caller:
    """A call's context: says hello, and reads its welcome as `write` does."""

    def __init__(self, write):
        self.write = write
        self.initial = model_pb2.RunRequest(
            hello=model_pb2.Hello(router=ROUTER, arena=memory_pb2.SharedFile(name="x"))
        )

    async def read(self):
        return self.initial


@pytest.fixture
def hub():
    return ReportPublisher(ModelMetrics(CollectorRegistry(), 8))


@pytest.fixture
def servicer(hub):
    servicer = ModelServicer(Rings(0), 4096, asyncio.Event())
    servicer.serve(Mock(hub=hub, welcome=model_pb2.Welcome()))
    return servicer


async def test_a_router_that_leaves_before_its_welcome_leaves_nothing_mapped(
    servicer, hub, monkeypatch
):
    closed = []
    monkeypatch.setattr(
        "model_svc.serving.publisher.PeerFiles.close", lambda files: closed.append(files)
    )

    async def gone(_):
        raise aio.InternalError("the caller has gone")

    with pytest.raises(aio.InternalError):
        await servicer.Run(None, Caller(gone))

    assert len(closed) == 1
    assert not hub.leases


async def test_a_refusal_names_the_field_apart_from_the_fault(servicer):
    servicer._model.limits = Limits(vocab_size=100, tokens=32, eos_token_ids=frozenset())
    refused = asyncio.get_running_loop().create_future()

    class Router(Caller):
        send_initial_metadata = AsyncMock()

        async def read(self):
            message, self.initial = self.initial, submit
            if message is submit:
                self.read = lambda: refused
            return message

    async def write(response):
        if response.WhichOneof("message") == "refusal":
            refused.set_result(aio.EOF)
            router.refusal = response.refusal

    bad_id = np.array([-1], "<i4").tobytes()
    submit = model_pb2.RunRequest(submit=model_pb2.Submit(handle=ROUTER << 32, ids=bad_id))
    router = Router(write)
    await servicer.Run(None, router)

    told = router.refusal
    assert (told.field, told.message) == ("prompt", "id -1 at position 0 is below 0")
    assert told.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_number_is_taken_from_its_hello_on(servicer, hub):
    welcomed = asyncio.Event()

    async def slow(_):
        await welcomed.wait()
        raise aio.InternalError("the caller has gone")

    first = asyncio.create_task(servicer.Run(None, Caller(slow)))
    await asyncio.sleep(0)
    with pytest.raises(AlreadyTaken):
        await asyncio.wait_for(servicer.Run(None, Caller(slow)), 1)
    welcomed.set()
    with pytest.raises(aio.InternalError):
        await first
    assert not hub.leases


def test_a_ring_is_lent_once():
    rings = Rings(4096)
    with rings.lend() as first, rings.lend() as second:
        names = {first.file.name, second.file.name}
    with rings.lend() as third:
        assert third.file.name not in names
        assert not Path("/dev/shm", first.file.name).exists()
    rings.close()
