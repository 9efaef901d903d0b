"""`triptych status`: the services of a deployment, and its load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses
from triptych.commands import arguments, retry_notice

if TYPE_CHECKING:
    from rich.table import Table

    from triptych.client import Load
    from triptych.deployment_status import DeploymentStatus, ServiceState

_ANY_WIDTH = 10_000
_PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}


def status(
    address: arguments.Address = addresses.PUBLIC,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object with services, models, kv_slots, queued, running, replicas "
            "and recovery.",
        ),
    ] = False,
) -> None:
    """Show the services, models and load of a deployment.

    The exit code is 0 if the deployment answers requests, and 1 if it is still loading.
    """
    import asyncio
    import json

    from triptych import deployment_status
    from triptych.commands.cli_errors import one_line_errors

    with one_line_errors():
        retry_notice.look_up(address)
        seen = asyncio.run(deployment_status.collect(address))
        if as_json:
            typer.echo(json.dumps(seen.as_json()))
        else:
            _print(seen)
    if not seen.services[0].ready:
        raise typer.Exit(1)


def _print(seen: DeploymentStatus) -> None:
    from triptych.commands.output import console

    out = console()
    table = _services(seen)
    unbounded = out.options.update(max_width=_ANY_WIDTH)
    if out.measure(table, options=unbounded).maximum <= out.width:
        out.print(table)
    else:
        out.print(_services(seen, addresses=False), "", _addresses(seen), sep="\n")
    out.print()
    for line in (*_models(seen), *_load(seen.load), *_notes(seen)):
        out.print(line)


def _models(seen: DeploymentStatus) -> Iterator[str]:
    from rich.markup import escape

    for model in seen.models:
        yield (
            f"model [bold]{escape(model.name)}[/]: {escape(model.architecture)}, "
            f"{model.parameters / 1e6:.1f} M parameters in {escape(model.dtype)}, "
            f"context {model.context_length}"
        )
        if model.generation_defaults:
            defaults = (f"{name} {value}" for name, value in model.generation_defaults.items())
            yield f"sampling that its checkpoint recommends: {escape(', '.join(defaults))}"


def _load(load: Load) -> Iterator[str]:
    free = load.kv_slots_total - load.kv_slots_used
    if load.kv_slots_total:
        used = f"{load.kv_slots_used} used, " if load.kv_slots_used else ""
        yield f"KV slots: {used}{free} free of {load.kv_slots_total}"
    if load.kv_slots_total or load.queued:
        yield f"requests: {_counted({'queued': load.queued, 'running': load.running}) or 'none'}"


def _counted(counts: Mapping[str, int]) -> str:
    """Counts that are not zero."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _notes(seen: DeploymentStatus) -> Iterator[str]:
    """Recoveries, and remarks about the figures."""
    done = seen.recovery
    recovered = {
        "resubmitted": done.resubmissions,
        "registered again": done.reregistrations,
        "replayed": done.replays,
        "fenced": done.fenced_deltas + done.fenced_rows,
    }
    if any(recovered.values()):
        yield f"recovery: {_counted(recovered)}"
    router, *others = seen.services
    hidden = [service.name for service in others if service.ready and not service.reached]
    if not router.reached:
        yield "A proxy hides the services; run `triptych status` beside the router to see them."
    elif hidden:
        yield (
            f"Not reachable from here: {', '.join(dict.fromkeys(hidden))}. Their health is what "
            f"the router says. This is normal behind a proxy or outside of containers."
        )
    if not router.ready:
        awaited = dict.fromkeys(service.name for service in others if not service.ready)
        what = f" ({', '.join(awaited)} not ready)" if awaited else ""
        yield f"[red]loading[/]{what}: requests wait until the deployment is ready"


def _services(seen: DeploymentStatus, *, addresses: bool = True) -> Table:
    from rich.table import Table

    restarted = any(service.restarts for service in seen.services)
    headers = ["service", "health", "pid", "up", *(["restarts"] if restarted else []), "transport"]
    table = Table(*headers, *(["address"] if addresses else []), **_PLAIN)
    for service, name in zip(seen.services, _names(seen), strict=True):
        cells = [name, _health(service), str(service.pid or "-"), _duration(service)]
        if restarted:
            cells.append(str(service.restarts or "-"))
        cells.append(service.transport or "-")
        table.add_row(*cells, *([service.address] if addresses else []))
    return table


def _addresses(seen: DeploymentStatus) -> Table:
    """A table apart, where a terminal has no room for both."""
    from rich.table import Table

    table = Table("service", **_PLAIN)
    table.add_column("address", overflow="fold")  # a path that is cut short is of no use
    for service, name in zip(seen.services, _names(seen), strict=True):
        table.add_row(name, service.address)
    return table


def _names(seen: DeploymentStatus) -> list[str]:
    """Names of the services, with their replica where there are several."""
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
    return "[red]loading[/]" if service.reached else "[red]away[/]"


def _duration(service: ServiceState) -> str:
    if service.uptime_s is None:
        return "-"
    minutes, seconds = divmod(int(service.uptime_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
