"""The `triptych` command.

Importing this module stays cheap, so that `--help` answers at once: each command imports what it
needs when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from triptych.commands import bench, chat, generate, serve, status

app = typer.Typer(
    name="triptych",
    help="Large language models as a gRPC service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(serve.serve)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("bench")(bench.bench)
app.command("status")(status.status)


def _print_version(wanted: bool) -> None:
    if wanted:
        from chassis.introspection import triptych_version

        typer.echo(triptych_version())
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Serve large language models over gRPC, and talk to them."""
