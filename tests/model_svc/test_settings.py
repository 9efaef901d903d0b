"""A setting that no model can run with is refused by name."""

import pytest

from chassis.config import ConfigError, load
from model_svc.settings import ModelSettings

NEEDED = {"TRIPTYCH_MODEL_LISTEN": "127.0.0.1:0", "TRIPTYCH_MODEL_CHECKPOINT": "folder"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KV_TOKENS", "-1"),
        ("MAX_BATCH_TOKENS", "-5"),
        ("MAX_SEQUENCES", "0"),
        ("POLICY", "shortest"),
        ("THREADS", "-2"),
        ("MODELS_HERE", "0"),
        ("RING_KIB", "3"),
        ("DEVICE", "abacus"),
        ("DTYPE", "float7"),
        ("QUANTIZE", "int3"),
        ("KV_DTYPE", "int3"),
        ("LOG_FORMAT", "poem"),
    ],
)
def test_the_variable_is_named(name, value):
    with pytest.raises(ConfigError, match=f"TRIPTYCH_MODEL_{name}: .*{value}"):
        load(ModelSettings, "TRIPTYCH_MODEL", NEEDED | {f"TRIPTYCH_MODEL_{name}": value})


def test_the_defaults_are_usable():
    assert load(ModelSettings, "TRIPTYCH_MODEL", NEEDED).max_sequences == 256
