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
_DEVICE = "Where the model computes; today: cpu. [default: auto]"
_DTYPE = "What it computes in. [default: auto, bfloat16 for 16 bits where the CPU can]"
_QUANTIZE = (
    "Round weights as they are loaded, on a CPU: to 8 or 4 bits, or weights and activations to 8. "
    "[default: none]"
)
_Device = Annotated[
    str | None, typer.Option("--device", metavar="auto|cpu|cuda|interpret", help=_DEVICE)
]
_Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="auto|float32|bfloat16|float16", help=_DTYPE)
]
_Quantize = Annotated[
    str | None, typer.Option("--quantize", metavar="none|int8|int4|w8a8", help=_QUANTIZE)
]
_KvDtype = Annotated[
    str | None,
    typer.Option(
        "--kv-dtype",
        metavar="auto|int8",
        help="What keys and values are kept in, on a CPU. [default: auto, what is computed in]",
    ),
]
_Listen = Annotated[
    str, typer.Option("--listen", metavar="HOST:PORT", help="Port 0 picks a free one.")
]
_KvTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-tokens",
        min=0,
        metavar="N",
        help="KV slots of a replica, one a token; 0: what memory allows.",
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
_Replicas = Annotated[
    int,
    typer.Option("--replicas", min=1, metavar="N", help="Models, each with its own detokenizer."),
]
_Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="MODEL_NAME",
        help="What requests call the model. [default: the folder's name]",
    ),
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
    quantize: _Quantize = None,
    kv_dtype: _KvDtype = None,
    listen: _Listen = addresses.PUBLIC,
    kv_tokens: _KvTokens = None,
    max_batch_tokens: _MaxBatchTokens = None,
    replicas: _Replicas = 1,
    name: _Name = None,
    metrics_listen: _MetricsListen = None,
    log_level: _LogLevel = "info",
    log_format: _LogFormat = "text",
) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Runs all services on this machine and prints `ready on HOST:PORT` on stdout once a request
    would be answered; logs go to stderr. A service that ends is started again.
    """
    from triptych.commands.endings import one_line_errors
    from triptych.supervisor.checkpoint import find_checkpoint
    from triptych.supervisor.plan import Deployment

    with one_line_errors():
        if log_format not in ("text", "json"):
            raise typer.BadParameter("expected text or json", param_hint="--log-format")
        _check_address("--listen", listen)
        if metrics_listen not in (None, "off"):
            _check_address("--metrics-listen", metrics_listen)
        deployment = Deployment(
            checkpoint=find_checkpoint(model),
            listen=listen,
            metrics_listen=metrics_listen,
            name=name,
            device=device,
            dtype=dtype,
            quantize=quantize,
            kv_dtype=kv_dtype,
            kv_tokens=kv_tokens,
            max_batch_tokens=max_batch_tokens,
            replicas=replicas,
            log_level=log_level,
        )
        _run(deployment, log_format)


def _check_address(option: str, address: str | None) -> None:
    from chassis.errors import StartError
    from chassis.metrics import split_address

    try:
        split_address(address or "")
    except StartError as error:
        raise StartError(f"{option}: {error}") from error


def _run(deployment: Deployment, log_format: str) -> None:
    import asyncio

    from triptych.supervisor.display import Display
    from triptych.supervisor.supervise import supervise

    display = Display(sys.stderr, log_format=log_format)
    try:
        # Not uvloop: it starts processes by fork, in which gRPC's threads and handlers have a part.
        asyncio.run(supervise(deployment, display, _announce))
    finally:
        display.close()


def _announce(line: str) -> None:
    """Tell whoever started this, at once also through a pipe; nobody need be reading."""
    with suppress(BrokenPipeError):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
