"""`triptych serve`: all four services on this machine, supervised."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from triptych import addresses, stdio

if TYPE_CHECKING:
    from triptych.supervisor.plan import Deployment

_UNIX = "unix:"

_Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="DIR_OR_HUB_ID",
        help="Checkpoint folder in Hugging Face layout, or a hub id to fetch.",
    ),
]
_CHOICES = {
    "--device": ("auto", "cpu", "cuda", "interpret"),
    "--dtype": ("auto", "float32", "bfloat16", "float16"),
    "--quantize": ("none", "int8", "int4", "w8a8"),
    "--kv-dtype": ("auto", "int8"),
    "--log-level": ("debug", "info", "warning", "error"),
    "--log-format": ("text", "json"),
}


def _choice(option: str, text: str = "") -> Any:
    """An option with a set of values."""
    return typer.Option(option, metavar="|".join(_CHOICES[option]), help=text)


_Device = Annotated[
    str | None, _choice("--device", "Device that the model runs on. [default: auto, today the CPU]")
]
_Dtype = Annotated[
    str | None,
    _choice(
        "--dtype",
        "Data type of the computation. [default: auto: bfloat16 if the checkpoint has 16 bits "
        "and the device can compute in it, else float32]",
    ),
]
_Quantize = Annotated[
    str | None,
    _choice(
        "--quantize",
        "Quantise the weights while loading (CPU only): int8, int4, or w8a8 for 8-bit weights and "
        "activations. [default: none]",
    ),
]
_KvDtype = Annotated[
    str | None,
    _choice("--kv-dtype", "Data type of the KV cache. [default: auto: as in the computation]"),
]
_Listen = Annotated[
    str,
    typer.Option(
        "--listen",
        metavar="HOST:PORT|unix:PATH",
        help="Address of the API; port 0 picks a free port.",
    ),
]
_KvTokens = Annotated[
    int | None,
    typer.Option(
        "--kv-tokens",
        metavar="N",
        help="Size of each replica's KV cache in tokens. [default: 0: as memory allows]",
    ),
]
_MaxBatchTokens = Annotated[
    int | None,
    typer.Option(
        "--max-batch-tokens",
        metavar="N",
        help="Maximum number of tokens in one step of the model. [default: 0: 512]",
    ),
]
_Replicas = Annotated[
    int,
    typer.Option(
        "--replicas",
        metavar="N",
        help="Number of copies of the model; each has its own detokenizer.",
    ),
]
_GenerationDefaults = Annotated[
    bool,
    typer.Option(
        "--generation-defaults",
        help="For sampling parameters that a request does not set, use the checkpoint's "
        "(generation_config.json).",
    ),
]
_Name = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="MODEL_NAME",
        help="Name of the model in requests. [default: the folder's name]",
    ),
]
_MetricsListen = Annotated[
    str | None,
    typer.Option(
        "--metrics-listen",
        metavar="HOST:PORT|off",
        help="Address of the metrics of all services, over HTTP. "
        f"[default: {addresses.METRICS}, or a free port if that is in use]",
    ),
]
_LogLevel = Annotated[str, _choice("--log-level", "Lowest level of log lines to show.")]
_LogFormat = Annotated[str, _choice("--log-format", "Format of the log lines.")]


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
    generation_defaults: _GenerationDefaults = False,
    name: _Name = None,
    metrics_listen: _MetricsListen = None,
    log_level: _LogLevel = "info",
    log_format: _LogFormat = "text",
) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Start the services on this machine and print `ready on ADDRESS` on stdout once requests are
    answered. Logs go to stderr. If a service ends, it is restarted.
    """
    _prepare_process()
    from chassis.checkpoint_folder import find_checkpoint
    from triptych.commands.cli_errors import one_line_errors
    from triptych.supervisor.plan import Deployment
    from triptych.supervisor.request_limit import find_request_limit

    with one_line_errors():
        said = {"--device": device, "--quantize": quantize, "--kv-dtype": kv_dtype}
        said["--dtype"] = dtype
        _check_choices(said)
        _check_choices({"--log-level": log_level.lower(), "--log-format": log_format})
        _check_device(said)
        _check_least({"--kv-tokens": (kv_tokens, 0), "--max-batch-tokens": (max_batch_tokens, 0)})
        _check_least({"--replicas": (replicas, 1)})
        if metrics_listen is not None and metrics_listen != "off":
            _check_address("--metrics-listen", metrics_listen)
        checkpoint = find_checkpoint(model)
        deployment = Deployment(
            listen=_public(listen),
            checkpoint=checkpoint,
            max_request_mib=find_request_limit(checkpoint),
            metrics_listen=metrics_listen,
            name=name,
            device=device,
            dtype=dtype,
            quantize=quantize,
            kv_dtype=kv_dtype,
            kv_tokens=kv_tokens,
            max_batch_tokens=max_batch_tokens,
            replicas=replicas,
            generation_defaults=generation_defaults,
            log_level=log_level,
        )
        _run(deployment, log_format)


def _prepare_process() -> None:
    """Make the process independent of its surroundings."""
    # Read by gRPC's C library when it is loaded, here and in the services; what it writes by itself
    # is for its developers.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from chassis.logs import unblock
    from chassis.serving.process import open_standard_streams, reap_orphans

    open_standard_streams()
    if unblock():
        reap_orphans()


def _check_choices(said: Mapping[str, str | None]) -> None:
    from chassis.errors import StartError

    for option, value in said.items():
        if value is not None and value not in _CHOICES[option]:
            choices = ", ".join(_CHOICES[option])
            raise StartError(f"{option}: {value!r} is not one of {choices}")


def _check_device(said: Mapping[str, str | None]) -> None:
    from chassis.errors import StartError

    device = said["--device"]
    on_cpu, quantize = device not in ("cuda", "interpret"), said["--quantize"]
    if not on_cpu and quantize not in (None, "none"):
        raise StartError(
            f"--quantize {quantize} works on the CPU only; use --device cpu, or --quantize none"
        )
    if on_cpu and said["--kv-dtype"] == "int8" and said["--dtype"] == "float32":
        raise StartError(
            "--kv-dtype int8 works with 16 bits only, and --dtype float32 is exact; use "
            "--dtype bfloat16, or --kv-dtype auto"
        )


def _check_least(said: Mapping[str, tuple[int | None, int]]) -> None:
    from chassis.errors import StartError

    for option, (value, least) in said.items():
        if value is not None and value < least:
            raise StartError(f"{option}: {value} is less than {least}")


def _public(listen: str) -> str:
    """The address of the API, the path of a socket in full.

    Raises:
        StartError: nothing can listen there.
    """
    from chassis.errors import StartError
    from chassis.links.sockets import refuse_unusable

    if listen.startswith(_UNIX):
        path = listen.removeprefix(_UNIX)
        if not path or path.endswith("/"):
            raise StartError(f"--listen: address {listen!r}: expected unix:PATH, a socket's file")
        listen = _UNIX + os.path.abspath(path)
    try:
        refuse_unusable(listen)
    except StartError as error:
        raise StartError(f"--listen: {error}") from error
    return listen


def _check_address(option: str, address: str) -> None:
    from chassis.errors import StartError
    from chassis.metrics import split_address

    try:
        split_address(address)
    except StartError as error:
        raise StartError(f"{option}: {error}") from error


def _run(deployment: Deployment, log_format: str) -> None:
    import asyncio

    from chassis.errors import StartError
    from chassis.imports import import_environment
    from chassis.line_stream import LineStream
    from triptych.packages import foreign_package_of_services
    from triptych.supervisor.display import Display
    from triptych.supervisor.log_lines import report_dropped
    from triptych.supervisor.supervise import supervise

    if (complaint := foreign_package_of_services(import_environment(os.environ))) is not None:
        raise StartError(complaint)
    if isinstance(sys.stderr, LineStream):
        sys.stderr.report_dropped = partial(report_dropped, log_format=log_format)
    display = Display(sys.stderr, log_format=log_format)
    try:
        # Not uvloop: it starts processes by fork, in which gRPC's threads and handlers have a part.
        asyncio.run(supervise(deployment, display, _announce))
    finally:
        display.close()


def _announce(line: str) -> None:
    """Print a line for the caller of the command; a closed pipe is no error."""
    with suppress(BrokenPipeError):
        stdio.write(f"{line}\n")
