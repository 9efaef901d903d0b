"""Settings are typed, and a wrong one stops the process by its name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from chassis.config import ConfigError, ServiceSettings, WrongValue, load


@dataclass(frozen=True, kw_only=True)
class Settings:
    address: str
    kv_tokens: int = 4096
    share: float = 0.5
    warm: bool = False
    port: int = 1


@dataclass(frozen=True, kw_only=True)
class Picky:
    least: int = 1
    most: int = 8
    names: tuple[str, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if self.least > self.most:
            raise WrongValue("least", f"{self.least} is more than {self.most}")


def test_reads_each_type() -> None:
    env = {
        "MODEL_ADDRESS": "unix:/run/model.sock",
        "MODEL_KV_TOKENS": "8",
        "MODEL_SHARE": "0.25",
        "MODEL_WARM": "true",
    }
    expected = Settings(address="unix:/run/model.sock", kv_tokens=8, share=0.25, warm=True)
    assert load(Settings, "MODEL", env) == expected


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_reads_a_boolean_as_people_write_it(text: str, value: bool) -> None:
    assert load(Settings, "MODEL", {"MODEL_ADDRESS": "a", "MODEL_WARM": text}).warm is value


def test_what_is_not_set_has_its_default() -> None:
    assert load(Settings, "MODEL", {"MODEL_ADDRESS": ""}) == Settings(address="")


def test_a_default_may_be_made_by_a_factory() -> None:
    assert load(Picky, "MODEL", {}) == Picky()


def test_settings_of_another_service_and_of_nobody_are_not_looked_at() -> None:
    env = {"MODEL_ADDRESS": "a", "ROUTER_ADDRES": "b", "MODEL": "c", "PATH": "/bin"}
    assert load(Settings, "MODEL", env) == Settings(address="a")


def test_a_subclass_adds_to_what_every_service_takes() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Own(ServiceSettings):
        workers: int = 2

    settings = load(Own, "X", {"X_LISTEN": "127.0.0.1:0", "X_WORKERS": "3", "X_GRACE_S": "1"})
    assert settings == Own(listen="127.0.0.1:0", workers=3, grace_s=1.0)


def test_settings_do_not_change() -> None:
    settings = load(Settings, "MODEL", {"MODEL_ADDRESS": "a"})
    with pytest.raises(FrozenInstanceError):
        settings.warm = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({}, "MODEL_ADDRESS is required"),
        ({"MODEL_KV_TOKENS": "4k"}, "MODEL_KV_TOKENS: .*'4k'"),
        ({"MODEL_KV_TOKENS": ""}, "MODEL_KV_TOKENS: "),
        ({"MODEL_SHARE": "half"}, "MODEL_SHARE: .*'half'"),
        ({"MODEL_SHARE": "nan"}, "MODEL_SHARE: .*'nan'"),
        ({"MODEL_SHARE": "inf"}, "MODEL_SHARE: .*'inf'"),
        ({"MODEL_WARM": "yep"}, "MODEL_WARM: .*'yep'"),
        ({"MODEL_KV_TOKEN": "4"}, "MODEL_KV_TOKEN$"),
        ({"MODEL_B": "4", "MODEL_A": "4"}, "MODEL_A, MODEL_B$"),
    ],
)
def test_names_the_wrong_variable(env: dict[str, str], named: str) -> None:
    given = {"MODEL_ADDRESS": "a"} if env else {}
    with pytest.raises(ConfigError, match=named):
        load(Settings, "MODEL", {**given, **env})


def test_names_the_variable_of_a_value_that_the_settings_themselves_refuse() -> None:
    with pytest.raises(ConfigError, match=r"^MODEL_LEAST: 9 is more than 8$"):
        load(Picky, "MODEL", {"MODEL_LEAST": "9"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MAX_MESSAGE_MIB", "0"),
        ("MAX_MESSAGE_MIB", "2048"),  # gRPC counts bytes in an int32
        ("MAX_REQUEST_MIB", "-1"),
        ("MAX_REQUEST_MIB", "2048"),
        ("GRACE_S", "-1"),
        ("RESTARTS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_value_no_service_can_use_is_refused_by_name(setting: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^TRIPTYCH_MODEL_{setting}: .*{value}"):
        load(
            ServiceSettings,
            "TRIPTYCH_MODEL",
            {"TRIPTYCH_MODEL_LISTEN": "127.0.0.1:0", f"TRIPTYCH_MODEL_{setting}": value},
        )


# What a Service called `model` with a port named `grpc` puts into every container of its namespace,
# and one called `model-metrics`, whose names begin like a setting of ours just the same.
INJECTED = {
    "MODEL_SERVICE_HOST": "10.0.171.239",
    "MODEL_SERVICE_PORT": "50051",
    "MODEL_SERVICE_PORT_GRPC": "50051",
    "MODEL_PORT": "tcp://10.0.171.239:50051",
    "MODEL_PORT_50051_TCP": "tcp://10.0.171.239:50051",
    "MODEL_PORT_50051_TCP_PROTO": "tcp",
    "MODEL_PORT_50051_TCP_PORT": "50051",
    "MODEL_PORT_50051_TCP_ADDR": "10.0.171.239",
    "MODEL_METRICS_SERVICE_HOST": "10.0.171.240",
    "MODEL_METRICS_SERVICE_PORT": "9400",
    "MODEL_METRICS_SERVICE_PORT_HTTP_METRICS": "9400",
    "MODEL_METRICS_PORT": "udp://10.0.171.240:9400",
    "MODEL_METRICS_PORT_9400_UDP": "udp://10.0.171.240:9400",
    "MODEL_METRICS_PORT_9400_UDP_PROTO": "udp",
    "MODEL_METRICS_PORT_9400_UDP_PORT": "9400",
    "MODEL_METRICS_PORT_9400_UDP_ADDR": "10.0.171.240",
}


def test_what_kubernetes_injects_is_not_ours() -> None:
    assert load(Settings, "MODEL", {"MODEL_ADDRESS": "a", **INJECTED}) == Settings(address="a")


def test_a_setting_whose_name_kubernetes_uses_too_is_read_where_the_value_is_ours() -> None:
    assert load(Settings, "MODEL", {"MODEL_ADDRESS": "a", "MODEL_PORT": "7"}).port == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL_METRICS_PORT", "9400"),
        ("MODEL_PORT_50051_TCP", "10.0.0.1:50051"),
        ("MODEL_PEER_ADDR", "10.0.0.1"),
        ("MODEL_WIRE_PROTO", "tcp"),
        ("MODEL_X_TCP_PORT", "1"),
        ("MODEL_IMPORTED_FROM", "tcp://10.0.0.1:1"),
    ],
)
def test_what_only_resembles_it_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}$"):
        load(Settings, "MODEL", {"MODEL_ADDRESS": "a", name: value})
