from __future__ import annotations

import pytest

from chassis import config
from chassis.config import ConfigError
from router.service import mount
from router.settings import ReplicaAddress, RouterSettings, replica_addresses

BASE = {
    "TRIPTYCH_ROUTER_LISTEN": "127.0.0.1:0",
    "TRIPTYCH_ROUTER_TOKENIZER": "unix:/t",
    "TRIPTYCH_ROUTER_REPLICAS": "unix:/m+unix:/d, host:1+host:2",
}


def settings(**more: str) -> RouterSettings:
    env = {**BASE, **{f"TRIPTYCH_ROUTER_{name}": value for name, value in more.items()}}
    return config.load(RouterSettings, "TRIPTYCH_ROUTER", env)


def test_replicas_are_pairs_of_addresses():
    assert replica_addresses(settings()) == (
        ReplicaAddress("unix:/m", "unix:/d"),
        ReplicaAddress("host:1", "host:2"),
    )


@pytest.mark.parametrize("replicas", ["", "unix:/m", "a+b+c", "a+b,", "+b"])
def test_a_malformed_replica_is_refused_by_name(replicas):
    with pytest.raises(ConfigError, match="TRIPTYCH_ROUTER_REPLICAS"):
        mount(settings(REPLICAS=replicas))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLICY", "luck"),
        ("MAX_QUEUE", "0"),
        ("ARENA_MIB", "0"),
        ("RECOVERY_S", "0"),
        ("RECOVERY_S", "nan"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"TRIPTYCH_ROUTER_{name}"):
        mount(settings(**{name: value}))
