"""`triptych status`: who takes part in a deployment, and how busy it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from triptych import addresses
from triptych.commands import arguments

if TYPE_CHECKING:
    from rich.table import Table

    from triptych.survey import ServiceState, Survey


def status(
    address: arguments.Address = addresses.PUBLIC,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object: services, models, kv_slots, queued, running, replicas.",
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
    out.print(_services(seen))
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


def _services(seen: Survey) -> Table:
    from rich.table import Table

    table = Table("service", "health", "pid", "up", "transport")
    table.add_column("address", overflow="fold")  # a path that is cut short is of no use
    for service in seen.services:
        table.add_row(
            service.name,
            "[green]ready[/]" if service.ready else "[red]not ready[/]",
            str(service.pid or "-"),
            _duration(service),
            service.transport or "-",
            service.address,
        )
    return table


def _duration(service: ServiceState) -> str:
    if service.uptime_s is None:
        return "-"
    minutes, seconds = divmod(int(service.uptime_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
