"""Reflection describes what a server really offers, under both of its names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import aio
from grpc_reflection.v1alpha import reflection_pb2

from chassis.links.channels import open_channel
from chassis.links.sockets import bind
from chassis.serving.health import SELF
from chassis.serving.reflection import add_reflection
from protos import generation_pb2

WAIT_S = 20.0
GENERATION = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
REFLECTIONS = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]

Ask = Callable[..., Any]


@pytest.fixture(params=REFLECTIONS)
async def ask(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ask]:
    server = aio.server()
    add_reflection(server, [GENERATION, SELF])
    async with open_channel(bind(server, f"unix:{tmp_path / 'a.sock'}")) as channel:
        await server.start()
        call = channel.stream_stream(
            f"/{request.param}/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )

        async def answer(**asked: Any) -> Any:
            requests = iter([reflection_pb2.ServerReflectionRequest(**asked)])
            (one,) = [one async for one in call(requests, timeout=WAIT_S)]
            return one

        yield answer
        await server.stop(None)


async def shown(ask: Ask, symbol: str) -> DescriptorPool:
    """A pool of the files that a client is shown for `symbol`, imported ones first."""
    answer = await ask(file_containing_symbol=symbol)
    files = map(
        FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto
    )
    pool = DescriptorPool()
    for file in reversed(list(files)):
        pool.Add(file)
    return pool


async def test_it_lists_the_services_and_itself(ask: Ask) -> None:
    answer = await ask(list_services="")
    listed = [service.name for service in answer.list_services_response.service]
    assert listed == sorted([GENERATION, SELF, *REFLECTIONS])


@pytest.mark.parametrize("service", [GENERATION, SELF, *REFLECTIONS])
async def test_every_listed_service_is_described_with_all_it_imports(
    ask: Ask, service: str
) -> None:
    assert (await shown(ask, service)).FindServiceByName(service).methods


async def test_health_is_described_with_its_list(ask: Ask) -> None:
    pool = await shown(ask, SELF)
    methods = {method.name: method for method in pool.FindServiceByName(SELF).methods}
    assert set(methods) == {"Check", "List", "Watch"}
    (statuses,) = methods["List"].output_type.fields
    assert (statuses.name, statuses.number) == ("statuses", 1)
    assert statuses.message_type.GetOptions().map_entry


async def test_a_symbol_that_is_not_offered_is_not_found(ask: Ask) -> None:
    answer = await ask(file_containing_symbol="triptych.internal.v1.ModelService")
    assert answer.error_response.error_code == 5


async def test_a_file_is_found_by_its_name(ask: Ask) -> None:
    answer = await ask(file_by_filename="protos/generation.proto")
    assert answer.file_descriptor_response.file_descriptor_proto
