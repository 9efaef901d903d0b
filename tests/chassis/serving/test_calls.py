"""A call from its first byte to its end: read, checked, parsed, counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from chassis.config import ServiceSettings
from chassis.errors import InvalidRequest, error_info
from chassis.links.channels import open_channel
from chassis.serving.server import Host, serving

WAIT_S = 20.0
KINDS = ["unary_unary", "unary_stream", "stream_unary", "stream_stream"]
Context = aio.ServicerContext[Any, Any]


class Service:
    """A service `Test` whose host a test may change."""

    def __init__(self, host: Host, channel: aio.Channel) -> None:
        self.host = host
        self.channel = channel

    def outcomes(self, method: str) -> dict[str, float]:
        """Number of calls of `method` by outcome."""
        samples = next(
            family.samples
            for family in self.host.registry.collect()
            if family.name == "triptych_router_calls"
        )
        return {
            sample.labels["outcome"]: sample.value
            for sample in samples
            if sample.labels["method"] == method and sample.name.endswith("_total")
        }

    async def failure(self, kind: str, method: str, *requests: bytes) -> aio.AioRpcError:
        """Failure of a call that sends `requests`."""
        stub = getattr(self.channel, kind)(method)
        call = stub(iter(requests) if kind.startswith("stream") else requests[0], timeout=WAIT_S)
        with pytest.raises(aio.AioRpcError) as failed:
            if kind.endswith("unary"):
                await call
            else:
                async for _ in call:
                    pass
        return failed.value


@asynccontextmanager
async def opened(folder: Path, **handlers: Any) -> AsyncIterator[Service]:
    """Serve `handlers` as `/Test/<name>`."""
    settings = ServiceSettings(listen=f"unix:{folder / 'a.sock'}", grace_s=0)
    hosts: list[Host] = []

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        host.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("Test", handlers),)
        )
        hosts.append(host)
        yield

    async with serving("router", mount, settings), open_channel(settings.listen) as channel:
        yield Service(hosts[0], channel)


def handle(kind: str, behaviour: Any, **serializers: Any) -> Any:
    return getattr(grpc, f"{kind}_rpc_method_handler")(behaviour, **serializers)


async def take_all(request: Any, context: Context) -> Any:
    if not isinstance(request, health_pb2.HealthCheckRequest):
        async for each in request:
            assert isinstance(each, health_pb2.HealthCheckRequest)
    return b""


async def read_all(requests: Any, context: Context) -> Any:
    while await context.read() is not aio.EOF:
        pass
    return b""


MALFORMED = [b"\xff", b"\x0a\x05ab", b"\x0a\x03\xed\xa0\x80", b"\x0a\x01\xff", b"\x0f"]


@pytest.mark.parametrize("malformed", MALFORMED)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", [take_all, read_all])
async def test_a_malformed_message_is_the_callers_mistake_wherever_it_comes(
    tmp_path: Path,
    kind: str,
    behaviour: Any,
    malformed: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    parse = health_pb2.HealthCheckRequest.FromString
    method = handle(kind, behaviour, request_deserializer=parse)
    sent = [b"", malformed] if kind.startswith("stream") else [malformed]
    async with opened(tmp_path, Take=method) as service:
        answered = await service.failure(kind, "/Test/Take", *sent)
    assert answered.code() == StatusCode.INVALID_ARGUMENT
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("malformed", MALFORMED)
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("unary_unary", "/grpc.health.v1.Health/Check"),
        ("unary_stream", "/grpc.health.v1.Health/Watch"),
        ("stream_stream", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
        ("unary_unary", "/triptych.internal.v1.IntrospectionService/Scrape"),
    ],
)
async def test_what_every_service_answers_takes_no_malformed_message(
    tmp_path: Path, kind: str, method: str, malformed: bytes
) -> None:
    if method.endswith("Scrape") and malformed not in (b"\xff", b"\x0f", b"\x0a\x05ab"):
        malformed = b"\xff"  # it has no text field
    async with opened(tmp_path) as service:
        answered = await service.failure(kind, method, malformed)
    assert answered.code() == StatusCode.INVALID_ARGUMENT


async def test_names_asked_for_are_bounded(tmp_path: Path) -> None:
    long = "x" * 1025
    check = health_pb2.HealthCheckRequest(service=long).SerializeToString()
    symbol = reflection_pb2.ServerReflectionRequest(file_containing_symbol=long)
    async with opened(tmp_path) as service:
        health = await service.failure("unary_unary", "/grpc.health.v1.Health/Check", check)
        method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        shown = await service.failure("stream_stream", method, symbol.SerializeToString())
    assert (health.code(), shown.code()) == (StatusCode.INVALID_ARGUMENT,) * 2
    assert "1025 bytes, more than the 1024" in str(shown.details())


async def test_a_call_without_a_request_is_told_so(tmp_path: Path) -> None:
    method = handle("unary_unary", take_all)
    async with opened(tmp_path, Take=method) as service:
        call = service.channel.stream_unary("/Test/Take")(iter(()), timeout=WAIT_S)
        with pytest.raises(aio.AioRpcError) as failed:
            await call
    assert failed.value.code() == StatusCode.INVALID_ARGUMENT
    assert failed.value.details() == "request: missing"


async def test_a_request_beyond_the_limit_is_logged_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chassis.serving.calls")
    told = asyncio.Event()

    def tell(record: logging.LogRecord) -> bool:
        told.set()
        return True

    caplog.handler.addFilter(tell)
    method = handle("unary_unary", take_all)
    async with (
        opened(tmp_path, Take=method) as service,
        open_channel(f"unix:{tmp_path / 'a.sock'}", max_message_mib=64) as channel,
    ):
        with pytest.raises(aio.AioRpcError) as failed:
            await channel.unary_unary("/Test/Take")(bytes(33 << 20), timeout=WAIT_S)
        assert failed.value.code() == StatusCode.RESOURCE_EXHAUSTED
        await asyncio.wait_for(told.wait(), WAIT_S)  # the caller is answered before
        assert service.outcomes("/Test/Take") == {"incomplete_request": 1}
    (line,) = [record for record in caplog.records if record.getMessage() == "call refused"]
    assert "larger than the limit" in line.cause  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
async def test_an_unknown_method_is_told_logged_and_counted(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chassis.serving.calls")
    async with opened(tmp_path) as service:
        answered = await service.failure(kind, "/Test/" + "x" * 1000, b"")
        assert service.outcomes("unknown") == {"unknown_method": 1}
    info = error_info(answered)
    assert answered.code() == StatusCode.UNIMPLEMENTED
    assert info is not None
    assert info.reason == "UNKNOWN_METHOD"
    (line,) = [record for record in caplog.records if record.getMessage() == "call refused"]
    assert len(line.cause) < 300  # type: ignore[attr-defined]


async def test_each_ending_is_counted(tmp_path: Path) -> None:
    started = asyncio.Event()

    async def end(request: bytes, context: Context) -> bytes:
        if request == b"wait":
            started.set()
            await asyncio.Event().wait()
        if request == b"bug":
            raise KeyError
        if request == b"bad":
            raise ExceptionGroup("several", [InvalidRequest("text", "x")])
        return request

    async with opened(tmp_path, End=handle("unary_unary", end)) as service:
        call = service.channel.unary_unary("/Test/End")
        await call(b"fine", timeout=WAIT_S)
        for request, timeout_s in ((b"bug", WAIT_S), (b"bad", WAIT_S), (b"wait", 0.1)):
            with pytest.raises(aio.AioRpcError):
                await call(request, timeout=timeout_s)
        started.clear()
        running = call(b"wait", timeout=WAIT_S)
        await started.wait()
        running.cancel()
        async with asyncio.timeout(WAIT_S):
            while "cancelled" not in service.outcomes("/Test/End"):
                await call(b"fine", timeout=WAIT_S)
        outcomes = service.outcomes("/Test/End")
    assert outcomes.pop("ok") >= 1
    assert set(outcomes) == {"internal", "invalid_request", "deadline_exceeded", "cancelled"}


async def test_what_a_check_refuses_reaches_no_servicer_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "chassis.serving.calls")

    def check(raw: bytes) -> None:
        raise InvalidRequest("text", f"{len(raw)} bytes")

    async def never(request: Any, context: Context) -> Any:
        raise AssertionError

    async with opened(tmp_path, Take=handle("unary_unary", never)) as service:
        service.host.checks["/Test/Take"] = check
        answered = await service.failure("unary_unary", "/Test/Take", b"abc")
        assert service.outcomes("/Test/Take") == {"invalid_request": 1}
    assert answered.details() == "text: 3 bytes"
    (line,) = [record for record in caplog.records if record.getMessage() == "call refused"]
    assert (line.method, line.cause) == ("/Test/Take", "text: 3 bytes")  # type: ignore[attr-defined]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_not_taken(
    tmp_path: Path, compression: grpc.Compression
) -> None:
    async with opened(tmp_path, Take=handle("unary_unary", take_all)) as service:
        call = service.channel.unary_unary("/Test/Take")
        with pytest.raises(aio.AioRpcError) as refused:
            await call(b"a" * 10_000, timeout=WAIT_S, compression=compression)
    assert refused.value.code() == StatusCode.UNIMPLEMENTED
    assert "ompression" in str(refused.value.details())


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_stream"])
async def test_a_call_cut_at_the_end_of_the_grace_is_told_that_the_service_stops(
    tmp_path: Path, kind: str
) -> None:
    started = asyncio.Event()
    hosts: list[Host] = []
    counted: list[dict[str, float]] = []

    async def wait(request: Any, context: Context) -> Any:
        started.set()
        await asyncio.Event().wait()

    settings = ServiceSettings(listen=f"unix:{tmp_path / 'a.sock'}", grace_s=0.05)

    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        handlers = {"Wait": handle(kind, wait)}
        host.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("Test", handlers),)
        )
        hosts.append(host)
        yield
        counted.append(Service(host, channel).outcomes("/Test/Wait"))

    async with open_channel(settings.listen) as channel:
        async with serving("router", mount, settings):
            caller = Service(hosts[0], channel)
            failing = asyncio.ensure_future(caller.failure(kind, "/Test/Wait", b""))
            await asyncio.wait_for(started.wait(), WAIT_S)
        answered = await failing
    assert answered.code() is StatusCode.UNAVAILABLE
    info = error_info(answered)
    assert info is not None
    assert info.reason == "STOPPING"
    assert counted == [{"stopping": 1}]
