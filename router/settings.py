"""The router's settings.

A malformed value stops the process before it binds a port.
"""

from __future__ import annotations

import dataclasses

from chassis.config import ConfigError, ServiceSettings
from chassis.policies.registry import DEFAULT_POLICY, POLICIES


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Addresses of one replica's two services, each `unix:PATH` or `HOST:PORT`."""

    model: str
    detokenizer: str


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryTimeouts:
    """Time limits for services that are away, in seconds.

    Attributes:
        recovery_s: for any service that a request needs, before the request fails.
        rejoin_s: for a replica's detokenizer, before its requests are moved to another replica.
    """

    recovery_s: float
    rejoin_s: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RouterSettings(ServiceSettings):
    """Settings of a router.

    Attributes:
        tokenizer: address of the tokenizer.
        replicas: comma-separated `MODEL_ADDRESS+DETOKENIZER_ADDRESS`, one a replica.
        policy: order in which waiting requests start, a name in `chassis.policies.registry`.
        max_queue: requests that may wait for admission.
        max_queue_mib: requests that may wait or be read at once, in MiB of their messages.
        max_text_kib: longest text where the tokenizer does not bound the bytes of a token, or where
            the prompt is to be truncated, in KiB.
        generation_defaults: true has the checkpoint's own sampling parameters hold where a request
            sets none.
        arena_mib: size of the prompt arena in shared memory, in MiB.
        shared_memory: false sends every prompt in the messages.
        recovery_s: how long a request waits for a service that is away, in seconds.
        rejoin_s: how long a replica's requests wait for its detokenizer before they are moved to
            another, in seconds.
    """

    tokenizer: str
    replicas: str
    policy: str = DEFAULT_POLICY
    max_queue: int = 1024
    max_queue_mib: int = 64
    max_text_kib: int = 4096
    generation_defaults: bool = False
    arena_mib: int = 64
    shared_memory: bool = True
    recovery_s: float = 120.0
    rejoin_s: float = 2.0

    @property
    def timeouts(self) -> RecoveryTimeouts:
        """Time limits for services that are away."""
        return RecoveryTimeouts(self.recovery_s, self.rejoin_s)


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
    """Refuse settings that no router can work with.

    Raises:
        ConfigError: a number is out of range, or there is no such policy.
    """
    if settings.policy not in POLICIES:
        raise ConfigError(
            f"TRIPTYCH_ROUTER_POLICY: {settings.policy!r} is none of {', '.join(POLICIES)}"
        )
    for name, value, least in (
        ("max_queue", settings.max_queue, 1),
        ("max_queue_mib", settings.max_queue_mib, 1),
        ("max_text_kib", settings.max_text_kib, 1),
        ("arena_mib", settings.arena_mib, 1),
    ):
        if value < least:
            raise ConfigError(f"TRIPTYCH_ROUTER_{name.upper()}: {value} is less than {least}")
    for name in ("recovery_s", "rejoin_s"):
        if not getattr(settings, name) > 0:
            said = getattr(settings, name)
            raise ConfigError(f"TRIPTYCH_ROUTER_{name.upper()}: {said} is not above 0")
