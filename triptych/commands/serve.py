"""`triptych serve`: all four services on this machine, supervised."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from triptych import addresses

if TYPE_CHECKING:
    from triptych.supervisor.plan import Deployment


_Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="DIR_OR_HUB_ID",
        help="Checkpoint folder in Hugging Face layout, or a hub id to fetch.",
    ),
]
_Device = Annotated[str | None, typer.Option("--device", metavar="auto|cpu|cuda|interpret")]
_Dtype = Annotated[str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16|float16")]
_Listen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 picks a free one.")
]
_KvTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-tokens", min=0, metavar="N", help="KV slots, one a token; 0: what memory allows."
    ),
]
_MaxBatchTokens = Annotated[
    int | None,
    typer.Option(
        "--max-batch-tokens",
        min=0,
        metavar="N",
        help="Tokens in a step; 0: as suits the device.",
    ),
]
_Name = Annotated[
    str | None,
    typer.Option("--name", metavar="MODEL_NAME", help="In requests; default the folder's."),
]
_MetricsListen = Annotated[
    str | None,
    typer.Option(
        "--metrics-listen",
        metavar="HOST:PORT|off",
        help=f"Metrics of all services over HTTP. [default: {addresses.METRICS}]",
    ),
]
_LogLevel = Annotated[str, typer.Option("--log-level", metavar="debug|info|warning|error")]
_LogFormat = Annotated[str, typer.Option("--log-format", metavar="text|json")]


def serve(  # noqa: PLR0913  (one parameter an option)
    model: _Model,
    device: _Device = None,
    dtype: _Dtype = None,
    listen: _Listen = addresses.PUBLIC,
    kv_tokens: _KvTokens = None,
    max_batch_tokens: _MaxBatchTokens = None,
    name: _Name = None,
    metrics_listen: _MetricsListen = None,
    log_level: _LogLevel = "info",
    log_format: _LogFormat = "text",
) -> None:
    """Run all four services until SIGINT or SIGTERM; say `ready on HOST:PORT` on stdout."""
    from triptych.commands.endings import one_line_errors
    from triptych.supervisor.checkpoint import find_checkpoint
    from triptych.supervisor.plan import Deployment

    with one_line_errors():
        if log_format not in ("text", "json"):
            raise typer.BadParameter("expected text or json", param_hint="--log-format")
        deployment = Deployment(
            checkpoint=find_checkpoint(model),
            listen=listen,
            metrics_listen=metrics_listen,
            name=name,
            device=device,
            dtype=dtype,
            kv_tokens=kv_tokens,
            max_batch_tokens=max_batch_tokens,
            log_level=log_level,
        )
        _run(deployment, log_format)


def _run(deployment: Deployment, log_format: str) -> None:
    import uvloop

    from triptych.commands.endings import complain
    from triptych.supervisor.display import Display
    from triptych.supervisor.supervise import ServiceLost, supervise

    display = Display(sys.stderr, log_format=log_format)
    try:
        uvloop.run(supervise(deployment, display, _announce))
    except ServiceLost as error:
        display.close()
        complain(str(error))
        raise typer.Exit(1) from error
    finally:
        display.close()


def _announce(line: str) -> None:
    """Tell whoever started this, at once also through a pipe; nobody need be reading."""
    with suppress(BrokenPipeError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
