"""What stands beside a model under test: a router and a detokenizer that obey the test."""

from __future__ import annotations

from contextlib import asynccontextmanager

import numpy as np
from grpc import aio

from chassis.memory.shared_file import PeerFiles
from chassis.serving.server import serving
from model_svc.service import mount
from model_svc.settings import ModelSettings
from protos import memory_pb2, model_pb2, model_pb2_grpc, service_pb2, service_pb2_grpc
from protos.token_frame import FINISHED, read_frame

ROUTER = 0xABCD1234


@asynccontextmanager
async def model(checkpoint, **changes):
    async with model_channel(checkpoint, **changes) as channel:
        yield model_pb2_grpc.ModelServiceStub(channel)


@asynccontextmanager
async def model_channel(checkpoint, **changes):
    values = {
        "listen": "127.0.0.1:0",
        "checkpoint": str(checkpoint),
        "dtype": "float32",
        "kv_tokens": 512,
        "threads": 1,
        "grace_s": 0.1,
    }
    settings = ModelSettings(**(values | changes))
    async with (
        serving("model", mount(settings), settings) as server,
        aio.insecure_channel(server.address) as channel,
    ):
        yield channel


async def metrics(channel):
    """All samples of the service behind `channel`, as text."""
    stub = service_pb2_grpc.IntrospectionServiceStub(channel)
    return (await stub.Scrape(service_pb2.ScrapeRequest())).text.decode().splitlines()


class Router:
    """The router's side of a Run stream."""

    def __init__(self, stub, router=ROUTER):
        self.call = stub.Run(wait_for_ready=True)
        self.router = router
        self.welcome = None

    async def join(self, arena=None):
        shared = memory_pb2.SharedFile() if arena is None else arena.file.describe()
        hello = model_pb2.Hello(router=self.router, arena=shared)
        await self.call.write(model_pb2.RunRequest(hello=hello))
        self.welcome = (await self.call.read()).welcome
        return self

    async def submit(self, counter=1, ids=(1, 2, 3), max_tokens=5, **fields):
        submit = model_pb2.Submit(handle=self.router << 32 | counter, **{"attempt": 1, **fields})
        if "slab" not in fields:
            submit.ids = np.array(ids, "<i4").tobytes()
        submit.stop.max_tokens = max_tokens
        submit.stop.ignore_eos = True
        submit.sampling.seed = 1
        submit.sampling.temperature = 0
        await self.call.write(model_pb2.RunRequest(submit=submit))
        return submit.handle

    async def loads_until(self, condition):
        while True:
            response = await self.call.read()
            if response.WhichOneof("message") == "load" and condition(response.load):
                return response.load


class Detokenizer:
    """The detokenizer's side of a Frames stream."""

    def __init__(self, stub, shares=True):
        self.call = stub.Frames(wait_for_ready=True)
        self.files = PeerFiles()
        self.shares = shares
        self.places = set()
        self.rows = []

    async def join(self):
        return await self.prove(await self.offered())

    async def offered(self):
        """The ring, which the model offers first."""
        return (await self.call.read()).ring

    async def prove(self, ring, *, hears=False):
        proof = self.files.prove(ring) if self.shares else memory_pb2.SharedProof()
        await self.call.write(
            model_pb2.FramesRequest(join=model_pb2.Join(proof=proof, hears=hears))
        )
        return self

    async def take(self, acknowledge=True):
        response = await self.call.read()
        if response.WhichOneof("message") == "frame":
            sent = response.frame
            self.places.add(sent.WhichOneof("place"))
            view = self.files.view(sent.span) if sent.HasField("span") else sent.inline
            self.rows += read_frame(bytes(view)).rows.tolist()
            if acknowledge:
                ack = model_pb2.Ack(sequence=sent.sequence)
                await self.call.write(model_pb2.FramesRequest(ack=ack))
        return response

    def ids(self, handle):
        return [row[3] for row in self.rows if row[0] == handle]

    def ids_by_position(self, handle):
        rows = sorted((row[2], row[3]) for row in self.rows if row[0] == handle)
        return dict(rows)

    def first_missing(self, handle):
        have = self.ids_by_position(handle)
        return next(i for i in range(len(have) + 1) if i not in have)

    async def until_finished(self, handle):
        while not any(row[0] == handle and row[6] & FINISHED for row in self.rows):
            await self.take()
        return self.ids(handle)
