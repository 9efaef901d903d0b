"""Whoever asks or watches is told how a service does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode, aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from chassis.descriptors import health_message
from chassis.errors import error_info
from chassis.links.channels import open_channel
from chassis.links.sockets import bind
from chassis.serving.calls import CallInterceptor
from chassis.serving.health import SELF, Health, add_health

WAIT_S = 20.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Patient:
    """A health servicer on a server, and a client of it."""

    def __init__(self, server: aio.Server, channel: aio.Channel) -> None:
        self.health = Health()
        self._stub = health_pb2_grpc.HealthStub(channel)
        add_health(server, self.health)
        self._list = channel.unary_unary(
            "/grpc.health.v1.Health/List",
            request_serializer=health_message("HealthListRequest").SerializeToString,
            response_deserializer=health_message("HealthListResponse").FromString,
        )

    async def check(self, service: str = "") -> int:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self._stub.Check(request, timeout=WAIT_S)
        status: int = answer.status
        return status

    async def list(self) -> dict[str, int]:
        answer = await self._list(health_message("HealthListRequest")(), timeout=WAIT_S)
        return {service: one.status for service, one in answer.statuses.items()}

    def watch(self, service: str = "") -> Any:
        request = health_pb2.HealthCheckRequest(service=service)
        return self._stub.Watch(request, timeout=WAIT_S)


@asynccontextmanager
async def _patient(folder: Path) -> AsyncIterator[Patient]:
    server = aio.server(interceptors=[CallInterceptor("test", CollectorRegistry())])
    async with open_channel(bind(server, f"unix:{folder / 'a.sock'}")) as channel:
        patient = Patient(server, channel)
        await server.start()
        yield patient
        # Without end where a watcher is not let go.
        await asyncio.wait_for(server.stop(None), WAIT_S)


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Patient]:
    async with _patient(tmp_path) as patient:
        yield patient


async def status(watch: Any) -> int:
    answer = await watch.read()
    assert answer is not aio.EOF
    told: int = answer.status
    return told


async def test_a_service_does_not_serve_before_it_says_so(patient: Patient) -> None:
    assert await patient.check() == NOT_SERVING
    patient.health.set([""], serving=True)
    assert await patient.check() == SERVING


async def test_services_are_told_apart(patient: Patient) -> None:
    patient.health.set(["a", "b"], serving=True)
    patient.health.set(["b"], serving=False)
    assert [await patient.check(name) for name in ("a", "b")] == [SERVING, NOT_SERVING]


async def test_a_process_that_answers_is_alive_until_it_is_told_to_stop(patient: Patient) -> None:
    assert [await patient.check(SELF), await patient.check()] == [SERVING, NOT_SERVING]
    patient.health.set([""], serving=True)
    patient.health.set([""], serving=False)
    assert await patient.check(SELF) == SERVING
    patient.health.end()
    assert await patient.check(SELF) == NOT_SERVING


async def test_who_asks_for_a_service_that_is_not_here_is_told_so(patient: Patient) -> None:
    with pytest.raises(aio.AioRpcError) as unknown:
        await patient.check("absent")
    assert unknown.value.code() == StatusCode.NOT_FOUND
    info = error_info(unknown.value)
    assert info is not None
    assert info.reason == "NOT_FOUND"


async def test_a_watcher_is_told_each_change_once(patient: Patient) -> None:
    watch = patient.watch()
    assert await status(watch) == NOT_SERVING
    for serving, told in ((True, SERVING), (False, NOT_SERVING), (True, SERVING)):
        patient.health.set([""], serving=serving)
        patient.health.set([""], serving=serving)
        assert await status(watch) == told


async def test_who_watches_a_service_that_is_not_here_is_told_when_it_comes(
    patient: Patient,
) -> None:
    watch = patient.watch("late")
    assert await status(watch) == SERVICE_UNKNOWN
    patient.health.set(["late"], serving=True)
    assert await status(watch) == SERVING


async def test_a_watcher_that_leaves_takes_no_other_with_it(patient: Patient) -> None:
    leaving, staying = patient.watch(), patient.watch()
    assert [await status(leaving), await status(staying)] == [NOT_SERVING, NOT_SERVING]
    leaving.cancel()
    # The server has seen it leave once it answers what was sent after.
    await patient.check()
    patient.health.set([""], serving=True)
    assert await status(staying) == SERVING


async def test_at_the_end_watchers_are_told_and_let_go(patient: Patient) -> None:
    patient.health.set(["", "a"], serving=True)
    watches = [patient.watch(), patient.watch("a")]
    assert [await status(watch) for watch in watches] == [SERVING, SERVING]
    patient.health.end()
    assert [await status(watch) for watch in watches] == [NOT_SERVING, NOT_SERVING]
    assert [await watch.read() for watch in watches] == [aio.EOF, aio.EOF]
    assert [await watch.code() for watch in watches] == [StatusCode.OK, StatusCode.OK]


async def test_the_end_is_for_good(patient: Patient) -> None:
    patient.health.end()
    patient.health.set([""], serving=True)
    assert await patient.check() == NOT_SERVING
    late = patient.watch()
    assert await status(late) == NOT_SERVING
    assert await late.read() is aio.EOF


async def test_list_tells_the_health_of_all_services(patient: Patient) -> None:
    patient.health.set(["", "triptych.v1.GenerationService"], serving=True)
    patient.health.set(["another"], serving=False)
    assert await patient.list() == {
        "": SERVING,
        SELF: SERVING,
        "triptych.v1.GenerationService": SERVING,
        "another": NOT_SERVING,
    }
