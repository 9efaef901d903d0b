"""Which processes a deployment on this machine consists of, and what each is told.

Services are told everything through environment variables. An operator's own
`TRIPTYCH_<SERVICE>_<SETTING>` stays in force, except for what ties the services together; an
option given on the command line wins over it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.errors import StartError

ROUTER = "router"
TOKENIZER = "tokenizer"
MODEL = "model"
DETOKENIZER = "detokenizer"
SERVICES = (ROUTER, TOKENIZER, MODEL, DETOKENIZER)

_MODULES = {
    ROUTER: "router",
    TOKENIZER: "tokenizer_svc",
    MODEL: "model_svc",
    DETOKENIZER: "detokenizer_svc",
}
_SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 with its final zero


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What `triptych serve` was asked for; None: not said.

    Attributes:
        checkpoint: folder in Hugging Face layout.
        listen: public address; port 0 picks a free one.
        metrics_listen: address of the metrics of all services, or `off`; None: the usual one, or
            any where that is taken.
        name: the model's name in requests; None: the folder's.
        device: `auto`, `cpu`, `cuda` or `interpret`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        kv_tokens: KV slots; None: as many as fit.
        max_batch_tokens: token budget of a step; None: as the device does best.
        log_level: what is shown of the services' logs.
        grace_s: seconds the router gets to end, and then as many the others.
    """

    checkpoint: Path
    listen: str
    metrics_listen: str | None = None
    name: str | None = None
    device: str | None = None
    dtype: str | None = None
    kv_tokens: int | None = None
    max_batch_tokens: int | None = None
    log_level: str = "info"
    grace_s: float = 8.0


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One process: its command, all of its environment, and from which level its log is shown."""

    service: str
    address: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    shown_from: int


def plan(
    deployment: Deployment, folder: Path, *, parent_pid: int, environment: Mapping[str, str]
) -> list[ServicePlan]:
    """The processes of `deployment`, the router first.

    Args:
        deployment: what is wanted.
        folder: private, for the sockets between the services.
        parent_pid: of the supervisor.
        environment: the supervisor's own.

    Raises:
        StartError: a log level is unknown, or the folder's path is too long for a socket.
    """
    addresses = {**_sockets(folder), ROUTER: deployment.listen}
    ties = _ties(deployment, addresses)
    plans = []
    for service in SERVICES:
        prefix = f"TRIPTYCH_{service.upper()}_"
        level = _level(environment.get(f"{prefix}LOG_LEVEL", deployment.log_level))
        forced = {
            **ties[service],
            "PARENT_PID": str(parent_pid),
            "LOG_FORMAT": "json",
            # Progress and addresses are read from the log, so info is always written.
            "LOG_LEVEL": logging.getLevelName(min(level, logging.INFO)).lower(),
        }
        told = {
            **_named(prefix, {"METRICS_LISTEN": "off", **_defaults(service, deployment)}),
            **environment,
            **_named(prefix, {**_choices(service, deployment), **forced}),
        }
        command = (sys.executable, "-m", _MODULES[service])
        plans.append(ServicePlan(service, addresses[service], command, told, level))
    return plans


def _sockets(folder: Path) -> dict[str, str]:
    paths = {service: f"{folder / service}.sock" for service in SERVICES}
    if max(map(len, paths.values())) > _SOCKET_PATH_BYTES:
        raise StartError(f"{folder} is too long a path for sockets; set TMPDIR to a shorter one")
    return {service: f"unix:{path}" for service, path in paths.items()}


def _named(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {prefix + name: value for name, value in settings.items()}


def _ties(deployment: Deployment, addresses: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Settings that make four processes one deployment; nobody may set them otherwise."""
    folder = str(deployment.checkpoint)
    return {
        ROUTER: {
            "LISTEN": addresses[ROUTER],
            "TOKENIZER": addresses[TOKENIZER],
            "REPLICAS": f"{addresses[MODEL]}+{addresses[DETOKENIZER]}",
        },
        TOKENIZER: {"LISTEN": addresses[TOKENIZER], "MODEL": folder},
        MODEL: {"LISTEN": addresses[MODEL], "CHECKPOINT": folder},
        DETOKENIZER: {
            "LISTEN": addresses[DETOKENIZER],
            "MODEL": folder,
            "MODEL_ADDRESS": addresses[MODEL],
        },
    }


def _defaults(service: str, deployment: Deployment) -> dict[str, str]:
    """What holds where neither the operator nor the command line says otherwise."""
    return {"NAME": deployment.checkpoint.name} if service == MODEL else {}


def _choices(service: str, deployment: Deployment) -> dict[str, str]:
    """What the command line says."""
    if service != MODEL:
        return {}
    said = {
        "NAME": deployment.name,
        "DEVICE": deployment.device,
        "DTYPE": deployment.dtype,
        "KV_TOKENS": deployment.kv_tokens,
        "MAX_BATCH_TOKENS": deployment.max_batch_tokens,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def _level(name: str) -> int:
    number = logging.getLevelNamesMapping().get(name.upper())
    if number is None:
        raise StartError(f"log level {name!r}: expected debug, info, warning or error")
    return number
