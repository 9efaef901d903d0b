"""The router's settings.

A malformed value stops the process before it binds a port.
"""

from __future__ import annotations

import dataclasses

from chassis.config import ConfigError, ServiceSettings


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Where one replica's two services are, each `unix:PATH` or `HOST:PORT`."""

    model: str
    detokenizer: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterSettings(ServiceSettings):
    """What the router can be told.

    Attributes:
        tokenizer: address of the tokenizer.
        replicas: comma-separated `MODEL_ADDRESS+DETOKENIZER_ADDRESS`, one a replica.
        max_queue: requests that may wait for admission.
        arena_mib: size of the prompt arena in shared memory, in MiB.
        shared_memory: false sends every prompt in the messages.
        recovery_s: how long a request waits for a service that is away, in seconds.
    """

    tokenizer: str
    replicas: str
    max_queue: int = 1024
    arena_mib: int = 64
    shared_memory: bool = True
    recovery_s: float = 120.0


def replica_addresses(settings: RouterSettings) -> tuple[ReplicaAddress, ...]:
    """The replicas named in `settings`.

    Raises:
        ConfigError: the list is empty, or an entry is not two addresses.
    """
    addresses = []
    for entry in settings.replicas.split(","):
        model, plus, detokenizer = entry.strip().partition("+")
        if not (model and plus and detokenizer) or "+" in detokenizer:
            raise ConfigError(
                f"TRIPTYCH_ROUTER_REPLICAS: {entry.strip()!r}: expected "
                "MODEL_ADDRESS+DETOKENIZER_ADDRESS"
            )
        addresses.append(ReplicaAddress(model, detokenizer))
    return tuple(addresses)


def check_ranges(settings: RouterSettings) -> None:
    """Refuse numbers that no router can work with.

    Raises:
        ConfigError: a number is out of range.
    """
    for name, value, least in (
        ("max_queue", settings.max_queue, 1),
        ("arena_mib", settings.arena_mib, 1),
    ):
        if value < least:
            raise ConfigError(f"TRIPTYCH_ROUTER_{name.upper()}: {value} is less than {least}")
    if not settings.recovery_s > 0:
        raise ConfigError(f"TRIPTYCH_ROUTER_RECOVERY_S: {settings.recovery_s} is not above 0")
