from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chassis import healthcheck
from chassis.config import ServiceSettings
from chassis.serving.health import Health
from chassis.serving.server import Host, Mount, serving


def mounting(*, ready: bool) -> Mount:
    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        await host.set_ready(ready)
        yield

    return mount


@pytest.mark.parametrize(
    ("ready", "health", "code"), [(True, "SERVING", 0), (False, "NOT_SERVING", 1)]
)
async def test_tells_what_the_service_says_of_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ready: bool, health: str, code: int
) -> None:
    settings = ServiceSettings(listen=f"unix:{tmp_path / 'service.sock'}")
    async with serving("router", mounting(ready=ready), settings):
        assert await asyncio.to_thread(healthcheck.main, [settings.listen]) == code
    assert capsys.readouterr().out == f"{health}\n"


def test_a_service_that_is_away_is_not_healthy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert healthcheck.main([f"unix:{tmp_path / 'nobody.sock'}"]) == 1
    assert capsys.readouterr().out == "UNAVAILABLE\n"


def test_without_an_address_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        healthcheck.main([])
    assert ended.value.code == 2
    assert "ADDRESS" in capsys.readouterr().err


class Patient:
    """Health checks that wait for a change, one after another, of a service in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._told = folder / "health"
        self.address = f"unix:{folder / 'service.sock'}"

    async def check(self) -> tuple[int, str]:
        """Exit code and output of the next one."""
        arguments = ["--patient", str(self._told), self.address]
        code = await asyncio.to_thread(healthcheck.main, arguments)
        return code, self._capsys.readouterr().out.strip()


class Stage:
    """A service whose health the test decides."""

    host: Host

    @asynccontextmanager
    async def mount(self, host: Host) -> AsyncIterator[None]:
        self.host = host
        yield


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a watcher has been told something."""
    event = asyncio.Event()
    watch = Health.Watch

    class Telling:
        def __init__(self, context: Any) -> None:
            self._context = context

        async def write(self, message: Any) -> None:
            await self._context.write(message)
            event.set()

    async def telling_watch(health: Health, request: Any, context: Any) -> None:
        await watch(health, request, Telling(context))

    monkeypatch.setattr(Health, "Watch", telling_watch)
    return event


@pytest.fixture
def patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Patient:
    return Patient(tmp_path, capsys)


async def test_a_first_patient_check_tells_at_once(patient: Patient) -> None:
    async with serving("router", mounting(ready=False), ServiceSettings(listen=patient.address)):
        assert await patient.check() == (1, "NOT_SERVING")


async def test_a_patient_check_waits_for_a_service_that_is_not_there_yet(patient: Patient) -> None:
    checking = asyncio.create_task(patient.check())
    async with serving("router", mounting(ready=True), ServiceSettings(listen=patient.address)):
        assert await checking == (0, "SERVING")


@pytest.mark.parametrize("ready", [True, False])
async def test_a_patient_check_ends_when_health_is_not_as_it_told(
    patient: Patient, watched: asyncio.Event, ready: bool
) -> None:
    stage = Stage()
    async with serving("router", stage.mount, ServiceSettings(listen=patient.address)):
        await stage.host.set_ready(ready)
        before = await patient.check()
        watched.clear()
        checking = asyncio.create_task(patient.check())
        await watched.wait()
        await stage.host.set_ready(not ready)
        assert {before, await checking} == {(0, "SERVING"), (1, "NOT_SERVING")}


async def test_a_patient_check_of_what_does_not_change_tells_the_same_again(
    patient: Patient,
) -> None:
    async with serving("router", mounting(ready=True), ServiceSettings(listen=patient.address)):
        health = await asyncio.to_thread(
            healthcheck.await_other, "SERVING", patient.address, patience_s=0.05
        )
        assert health == "SERVING"


async def test_a_patient_check_of_a_service_that_is_gone_says_so(patient: Patient) -> None:
    health = await asyncio.to_thread(
        healthcheck.await_other, "SERVING", patient.address, patience_s=0.05
    )
    assert health == "UNAVAILABLE"
