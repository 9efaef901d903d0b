"""Descriptors of the services that a server offers, for reflection.

The pinned packages of gRPC lack `grpc.health.v1.Health/List` and `grpc.reflection.v1`. Both are
added here, in a pool apart from the default one: a later package that defines them can be loaded
in the same process.

Source: health.proto and reflection.proto of the grpc-proto repository; gRFC A90.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from google.protobuf import message_factory, text_format
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

HEALTH = "grpc.health.v1.Health"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
REFLECTION_V1ALPHA = "grpc.reflection.v1alpha.ServerReflection"

_LIST_MESSAGES = """
message_type { name: "HealthListRequest" }
message_type {
  name: "HealthListResponse"
  field {
    name: "statuses" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
    type_name: ".grpc.health.v1.HealthListResponse.StatusesEntry"
  }
  nested_type {
    name: "StatusesEntry"
    options { map_entry: true }
    field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
    field {
      name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
      type_name: ".grpc.health.v1.HealthCheckResponse"
    }
  }
}
"""


def describe(services: Iterable[str]) -> DescriptorPool:
    """Make a pool that holds the files of `services`, full names, and of all that they import.

    A service whose file this process has not loaded is left out.
    """
    pool = DescriptorPool()
    added: set[str] = set()
    for name in services:
        if name == HEALTH:
            pool.Add(_health_file())
        elif name == REFLECTION_V1:
            pool.Add(_reflection_v1_file())
        else:
            with suppress(KeyError):
                _add(pool, Default().FindFileContainingSymbol(name), added)
    return pool


def health_message(name: str) -> type[Message]:
    """The class of the message `name` of `grpc.health.v1`, those of List included."""
    descriptor = describe([HEALTH]).FindMessageTypeByName(f"grpc.health.v1.{name}")
    return message_factory.GetMessageClass(descriptor)


def _add(pool: DescriptorPool, file: FileDescriptor, added: set[str]) -> None:
    """Add a file after those that it imports."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    pool.Add(_copy(file))


def _copy(file: FileDescriptor) -> FileDescriptorProto:
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    return copy


def _health_file() -> FileDescriptorProto:
    file = _copy(health_pb2.DESCRIPTOR)
    (service,) = file.service
    if "List" not in {method.name for method in service.method}:
        text_format.Merge(_LIST_MESSAGES, file)
        service.method.add(
            name="List",
            input_type=".grpc.health.v1.HealthListRequest",
            output_type=".grpc.health.v1.HealthListResponse",
        )
    return file


def _reflection_v1_file() -> FileDescriptorProto:
    """The file of v1alpha under its final name; nothing else has changed."""
    file = _copy(reflection_pb2.DESCRIPTOR)
    spelled = text_format.MessageToString(file).replace("v1alpha", "v1")
    return text_format.Parse(spelled, FileDescriptorProto())
