"""The `triptych` command.

Importing this module stays cheap, so that `--help` answers at once: each command imports what it
needs when it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Annotated, ParamSpec

import typer

from triptych import stdio
from triptych.commands import bench, chat, generate, serve, status

_OF_SERVICES = ("torch", "tokenizers", "safetensors", "jinja2", "numpy", "uvloop")

P = ParamSpec("P")


def _needing_services(command: Callable[P, None]) -> Callable[P, None]:
    """`command`, which says what to install where only the client is."""

    @wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        missing = [name for name in _OF_SERVICES if find_spec(name) is None]
        if missing:
            stdio.complain(
                f"only the client is installed ({', '.join(missing)} not found); install the "
                f"server with `pip install 'triptych[serve]'`"
            )
            raise typer.Exit(1)
        command(*arguments, **options)

    return run


app = typer.Typer(
    name="triptych",
    help="Serve large language models over gRPC, and talk to them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("serve")(_needing_services(serve.serve))
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.command("bench")(bench.bench)
app.command("status")(status.status)


def _print_version(wanted: bool) -> None:
    if wanted:
        from chassis.serving.introspection import triptych_version

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
