from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chassis import healthcheck
from chassis.config import ServiceSettings
from chassis.server import Host, Mount, serving


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
    assert healthcheck.main([]) == 2
    assert "ADDRESS" in capsys.readouterr().err
