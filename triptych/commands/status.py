"""`triptych status`: who takes part in a deployment, and how busy it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses
from triptych.commands import arguments

if TYPE_CHECKING:
    from rich.table import Table

    from triptych.survey import ServiceState, Survey

_ANY_WIDTH = 10_000
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}


def status(
    address: arguments.Address = addresses.PUBLIC,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: services, models, kv_slots, queued, running, replicas, "
            "recovery.",
        ),
    ] = False,
) -> None:
    """Show services, models and load of a deployment."""
    import asyncio
    import json

    from triptych import survey
    from triptych.commands.endings import one_line_errors

    with one_line_errors():
        seen = asyncio.run(survey.take(address))
    if as_json:
        typer.echo(json.dumps(seen.as_json()))
    else:
        _print(seen)


def _print(seen: Survey) -> None:
    from rich.markup import escape

    from triptych.commands.output import console

    out = console()
    table = _services(seen)
    unbounded = out.options.update(max_width=_ANY_WIDTH)
    if out.measure(table, options=unbounded).maximum <= out.width:
        out.print(table)
    else:
        out.print(_services(seen, addresses=False), "", _addresses(seen), sep="\n")
    out.print()
    for model in seen.models:
        out.print(
            f"model [bold]{escape(model.name)}[/]: {model.architecture}, "
            f"{model.parameters / 1e6:.1f} M parameters in {model.dtype}, "
            f"context {model.context_length}"
        )
    load = seen.load
    free = load.kv_slots_total - load.kv_slots_used
    out.print(f"KV slots: {load.kv_slots_used} used, {free} free of {load.kv_slots_total}")
    out.print(f"requests: {load.queued} queued, {load.running} running")
    out.print(_recovery(seen))


def _services(seen: Survey, *, addresses: bool = True) -> Table:
    from rich.table import Table

    table = Table("service", "health", "pid", "up", "restarts", "transport", **_PLAIN)
    if addresses:
        table.add_column("address")
    for service, name in zip(seen.services, _names(seen), strict=True):
        cells = (
            name,
            _health(service),
            str(service.pid or "-"),
            _duration(service),
            "-" if service.restarts is None else str(service.restarts),
            service.transport or "-",
        )
        table.add_row(*cells, *((service.address,) if addresses else ()))
    return table


def _addresses(seen: Survey) -> Table:
    """A table apart, where a terminal has no room for both."""
    from rich.table import Table

    table = Table("service", **_PLAIN)
    table.add_column("address", overflow="fold")  # a path that is cut short is of no use
    for service, name in zip(seen.services, _names(seen), strict=True):
        table.add_row(name, service.address)
    return table


def _names(seen: Survey) -> list[str]:
    """What the services are called; their replica is told where there are several."""
    several = any(service.replica for service in seen.services)
    return [
        f"{service.name}/{service.replica}"
        if several and service.replica is not None
        else service.name
        for service in seen.services
    ]


def _health(service: ServiceState) -> str:
    if service.ready:
        return "[green]ready[/]"
    return "[red]not ready[/]" if service.reached else "[red]away[/]"


def _recovery(seen: Survey) -> str:
    done = seen.recovery
    return (
        f"recovery: {done.resubmissions} resubmitted, {done.reregistrations} registered again, "
        f"{done.replays} replayed, {done.fenced_deltas + done.fenced_rows} fenced"
    )


def _duration(service: ServiceState) -> str:
    if service.uptime_s is None:
        return "-"
    minutes, seconds = divmod(int(service.uptime_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
