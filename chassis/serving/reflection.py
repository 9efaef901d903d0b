"""Server reflection under both of its names, `grpc.reflection.v1` and `v1alpha`."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc import aio
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from chassis.descriptors import REFLECTION_V1, REFLECTION_V1ALPHA, describe

_METHOD = "ServerReflectionInfo"


def add_reflection(server: aio.Server, services: Iterable[str]) -> None:
    """Have `server` list and describe `services`, full names, and reflection itself."""
    names = (*services, REFLECTION_V1, REFLECTION_V1ALPHA)
    servicer = reflection.aio.ReflectionServicer(names, describe(names))
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    # The messages of both versions are the same but for their package.
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = grpc.method_handlers_generic_handler(REFLECTION_V1, {_METHOD: handler})
    server.add_generic_rpc_handlers((handlers,))
