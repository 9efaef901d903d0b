"""Plan of a deployment on this machine: its processes and the settings of each.

Services receive all settings through environment variables. An operator's own
`TRIPTYCH_<SERVICE>_<SETTING>` stays in force, except for what ties the services together; an
option given on the command line wins over it.
"""

from __future__ import annotations

import itertools
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chassis.config import LOG_LEVELS
from chassis.errors import StartError

ROUTER = "router"
TOKENIZER = "tokenizer"
MODEL = "model"
DETOKENIZER = "detokenizer"

_MODULES = {
    ROUTER: "router",
    TOKENIZER: "tokenizer_svc",
    MODEL: "model_svc",
    DETOKENIZER: "detokenizer_svc",
}
_SOCKET_PATH_BYTES = 107  # sockaddr_un holds 108 with its final zero

_Seat = tuple[str, int | None]
"""A service, and of which replica where there are several."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """Options of `triptych serve`; None: not given.

    Attributes:
        checkpoint: folder in Hugging Face layout.
        listen: public address; port 0 picks a free one.
        metrics_listen: address of the metrics of all services, or `off`; None: the usual one, or
            any where that is taken.
        name: the model's name in requests; None: the folder's.
        device: `auto`, `cpu`, `cuda` or `interpret`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        quantize: `none`, `int8`, `int4` or `w8a8`.
        kv_dtype: `auto` or `int8`.
        kv_tokens: KV slots of each replica; None: as many as fit.
        max_batch_tokens: token budget of a step; None: as the device does best.
        replicas: how many models, each with a detokenizer.
        max_request_mib: largest request that the router takes, in MiB; None: the router's own.
        generation_defaults: whether requests that say nothing get the checkpoint's sampling.
        log_level: what is shown of the services' logs.
        grace_s: seconds the router gets to end, then as many the tokenizer and the detokenizers,
            and then the models.
    """

    checkpoint: Path
    listen: str
    metrics_listen: str | None = None
    name: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantize: str | None = None
    kv_dtype: str | None = None
    kv_tokens: int | None = None
    max_batch_tokens: int | None = None
    replicas: int = 1
    max_request_mib: int | None = None
    generation_defaults: bool = False
    log_level: str = "info"
    grace_s: float = 8.0


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One process.

    Attributes:
        service: router, tokenizer, model or detokenizer.
        replica: which, from 0; None where it belongs to none, or to the only one.
        address: where it is to serve.
        command: what is run.
        environment: all of it, but for what differs from start to start.
        shown_from: the level from which its log is shown.
        grace_s: time that its operator gives calls in flight after a stop is requested, in
            seconds; None: nothing was said.
    """

    service: str
    replica: int | None
    address: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    shown_from: int
    grace_s: float | None = None

    @property
    def name(self) -> str:
        """Name for people, unique in the deployment."""
        return _joined(self.service, "/", self.replica)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its metrics."""
        replica = {} if self.replica is None else {"replica": str(self.replica)}
        return {"service": self.service, **replica}

    def environment_at(self, address: str, restarts: int) -> dict[str, str]:
        """Environment for a start at `address`, after so many `restarts`."""
        differs = {"LISTEN": address, "RESTARTS": str(restarts)}
        return {**self.environment, **_named(_prefix(self.service), differs)}


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
    addresses = _addresses(deployment, folder)
    plans = []
    for (service, replica), address in addresses.items():
        prefix = _prefix(service)
        level = _level(prefix, deployment, environment)
        forced = {
            **_ties(service, replica, deployment, addresses),
            "PARENT_PID": str(parent_pid),
            "LOG_FORMAT": "json",
            # Progress and addresses are read from the log, so info is always written.
            "LOG_LEVEL": logging.getLevelName(min(level, logging.INFO)).lower(),
        }
        settings = {
            **_named(prefix, {"METRICS_LISTEN": "off", **_defaults(service, deployment)}),
            **environment,
            **_named(prefix, {**_choices(service, deployment), **forced}),
        }
        command = (sys.executable, "-m", _MODULES[service])
        grace_s = _seconds(settings.get(f"{prefix}GRACE_S"))
        plans.append(ServicePlan(service, replica, address, command, settings, level, grace_s))
    return plans


def _addresses(deployment: Deployment, folder: Path) -> dict[_Seat, str]:
    """Addresses of the services, the router's first."""
    numbers = range(deployment.replicas) if deployment.replicas > 1 else (None,)
    seats: list[_Seat] = [(ROUTER, None), (TOKENIZER, None)]
    seats += itertools.product((MODEL, DETOKENIZER), numbers)
    paths = {
        (service, replica): str(folder / f"{_joined(service, '-', replica)}.sock")
        for service, replica in seats
    }
    if max(map(len, paths.values())) > _SOCKET_PATH_BYTES:
        raise StartError(f"{folder} is too long a path for sockets; set TMPDIR to a shorter one")
    addresses = {seat: f"unix:{path}" for seat, path in paths.items()}
    return {**addresses, (ROUTER, None): deployment.listen}


def _joined(service: str, mark: str, replica: int | None) -> str:
    return service if replica is None else f"{service}{mark}{replica}"


def _prefix(service: str) -> str:
    return f"TRIPTYCH_{service.upper()}_"


def _named(prefix: str, settings: Mapping[str, str]) -> dict[str, str]:
    return {prefix + name: value for name, value in settings.items()}


def _ties(
    service: str, replica: int | None, deployment: Deployment, addresses: Mapping[_Seat, str]
) -> dict[str, str]:
    """Settings that make the processes one deployment; no operator may override them."""
    folder = str(deployment.checkpoint)
    if service == ROUTER:
        replicas = [
            f"{address}+{addresses[DETOKENIZER, number]}"
            for (name, number), address in addresses.items()
            if name == MODEL
        ]
        return {"TOKENIZER": addresses[TOKENIZER, None], "REPLICAS": ",".join(replicas)}
    if service == MODEL:
        return {"CHECKPOINT": folder}
    if service == DETOKENIZER:
        return {"MODEL": folder, "MODEL_ADDRESS": addresses[MODEL, replica]}
    return {"MODEL": folder}


def _defaults(service: str, deployment: Deployment) -> dict[str, str]:
    """Settings that neither the operator nor the command line gives."""
    if service == ROUTER and deployment.max_request_mib is not None:
        return {"MAX_REQUEST_MIB": str(deployment.max_request_mib)}
    if service != MODEL:
        return {}
    return {"NAME": deployment.checkpoint.name, "MODELS_HERE": str(deployment.replicas)}


def _choices(service: str, deployment: Deployment) -> dict[str, str]:
    """Settings from the command line."""
    if service == ROUTER and deployment.generation_defaults:
        return {"GENERATION_DEFAULTS": "true"}
    if service != MODEL:
        return {}
    said = {
        "NAME": deployment.name,
        "DEVICE": deployment.device,
        "DTYPE": deployment.dtype,
        "QUANTIZE": deployment.quantize,
        "KV_DTYPE": deployment.kv_dtype,
        "KV_TOKENS": deployment.kv_tokens,
        "MAX_BATCH_TOKENS": deployment.max_batch_tokens,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def _level(prefix: str, deployment: Deployment, environment: Mapping[str, str]) -> int:
    variable = f"{prefix}LOG_LEVEL"
    name = environment.get(variable)
    where, name = ("--log-level", deployment.log_level) if name is None else (variable, name)
    if name.lower() not in LOG_LEVELS:
        raise StartError(f"{where}: {name!r} is not one of {', '.join(LOG_LEVELS)}")
    return logging.getLevelNamesMapping()[name.upper()]


def _seconds(text: str | None) -> float | None:
    """Seconds in `text`; None if it has none, or a value that the service will refuse."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
