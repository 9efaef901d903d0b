"""What each process of a deployment is told."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chassis.config import load
from chassis.errors import StartError
from router.settings import RouterSettings, replica_addresses
from triptych.supervisor.plan import Deployment, plan

FOLDER = Path("/run/x")
DEPLOYMENT = Deployment(checkpoint=Path("/models/demo"), listen="127.0.0.1:0")


TWO = replace(DEPLOYMENT, replicas=2)


def told(name, deployment=DEPLOYMENT, **environment):
    """The variables of a service that bear its prefix, at its first start."""
    (one,) = (
        one
        for one in plan(deployment, FOLDER, parent_pid=42, environment=environment)
        if one.name == name
    )
    prefix = f"TRIPTYCH_{one.service.upper()}_"
    return {
        key.removeprefix(prefix): value
        for key, value in one.environment_at(one.address, 0).items()
        if key.startswith(prefix)
    }


def test_every_service_runs_as_its_own_module():
    plans = plan(DEPLOYMENT, FOLDER, parent_pid=42, environment={})

    assert [one.command for one in plans] == [
        (sys.executable, "-m", module)
        for module in ("router", "tokenizer_svc", "model_svc", "detokenizer_svc")
    ]


def test_the_services_are_tied_together_by_sockets():
    model = "unix:/run/x/model.sock"
    detokenizer = "unix:/run/x/detokenizer.sock"

    router = told("router")
    assert router["LISTEN"] == "127.0.0.1:0"
    assert router["TOKENIZER"] == told("tokenizer")["LISTEN"] == "unix:/run/x/tokenizer.sock"
    assert router["REPLICAS"] == f"{model}+{detokenizer}"
    assert told("detokenizer")["MODEL_ADDRESS"] == told("model")["LISTEN"] == model
    assert told("detokenizer")["LISTEN"] == detokenizer


def test_all_read_the_same_checkpoint_and_end_with_the_supervisor():
    folder = "/models/demo"

    assert told("model")["CHECKPOINT"] == folder
    assert told("tokenizer")["MODEL"] == told("detokenizer")["MODEL"] == folder
    for service in ("router", "tokenizer", "model", "detokenizer"):
        assert told(service)["PARENT_PID"] == "42"
        assert told(service)["LOG_FORMAT"] == "json"
        assert told(service)["METRICS_LISTEN"] == "off"


def test_what_was_not_said_is_left_to_the_service_but_for_the_name():
    model = told("model")

    assert model["NAME"] == "demo"
    assert (
        not {"DEVICE", "DTYPE", "QUANTIZE", "KV_DTYPE", "KV_TOKENS", "MAX_BATCH_TOKENS"}
        & model.keys()
    )


def test_an_option_wins_over_the_operators_variable_which_wins_over_a_default():
    deployment = Deployment(
        checkpoint=Path("/models/demo"),
        listen="x:1",
        device="cpu",
        dtype="float32",
        quantize="int4",
        kv_dtype="int8",
        kv_tokens=64,
    )
    environment = {
        "TRIPTYCH_MODEL_DEVICE": "cuda",
        "TRIPTYCH_MODEL_NAME": "mine",
        "TRIPTYCH_MODEL_THREADS": "1",
        "TRIPTYCH_MODEL_METRICS_LISTEN": "127.0.0.1:9999",
    }

    model = told("model", deployment, **environment)

    assert model["DEVICE"] == "cpu"
    assert model["QUANTIZE"] == "int4"
    assert model["KV_DTYPE"] == "int8"
    assert model["KV_TOKENS"] == "64"
    assert model["NAME"] == "mine"
    assert model["THREADS"] == "1"
    assert model["METRICS_LISTEN"] == "127.0.0.1:9999"


def test_a_replica_is_a_model_and_the_detokenizer_that_reads_it():
    plans = plan(TWO, FOLDER, parent_pid=42, environment={})

    assert [one.name for one in plans] == [
        "router",
        "tokenizer",
        "model/0",
        "model/1",
        "detokenizer/0",
        "detokenizer/1",
    ]
    assert told("router", TWO)["REPLICAS"] == (
        "unix:/run/x/model-0.sock+unix:/run/x/detokenizer-0.sock,"
        "unix:/run/x/model-1.sock+unix:/run/x/detokenizer-1.sock"
    )
    for number in (0, 1):
        model = told(f"model/{number}", TWO)["LISTEN"]
        assert model == f"unix:/run/x/model-{number}.sock"
        assert told(f"detokenizer/{number}", TWO)["MODEL_ADDRESS"] == model


def test_the_router_understands_the_replicas_it_is_told():
    environment = {f"ROUTER_{key}": value for key, value in told("router", TWO).items()}

    settings = load(RouterSettings, "ROUTER", environment)

    assert [address.model for address in replica_addresses(settings)] == [
        "unix:/run/x/model-0.sock",
        "unix:/run/x/model-1.sock",
    ]


def test_models_are_told_how_many_divide_the_machine_unless_the_operator_knows_better():
    assert told("model")["MODELS_HERE"] == "1"
    assert told("model/1", TWO)["MODELS_HERE"] == "2"
    assert told("model/1", TWO, TRIPTYCH_MODEL_MODELS_HERE="4")["MODELS_HERE"] == "4"


def test_each_start_is_told_where_to_listen_and_how_often_it_was_tried():
    environment = {"TRIPTYCH_ROUTER_LISTEN": "0.0.0.0:1", "TRIPTYCH_ROUTER_RESTARTS": "9"}
    (router, *_) = plan(DEPLOYMENT, FOLDER, parent_pid=1, environment=environment)

    again = router.environment_at("127.0.0.1:4711", 3)

    assert again["TRIPTYCH_ROUTER_LISTEN"] == "127.0.0.1:4711"
    assert again["TRIPTYCH_ROUTER_RESTARTS"] == "3"


def test_nobody_can_untie_the_services():
    router = told("router", TRIPTYCH_ROUTER_LISTEN="0.0.0.0:1", TRIPTYCH_ROUTER_LOG_FORMAT="text")

    assert router["LISTEN"] == "127.0.0.1:0"
    assert router["LOG_FORMAT"] == "json"


@pytest.mark.parametrize(
    ("level", "written", "shown_from"),
    [("debug", "debug", 10), ("info", "info", 20), ("error", "info", 40)],
)
def test_info_is_always_written_and_shown_from_the_chosen_level(level, written, shown_from):
    deployment = Deployment(checkpoint=Path("/m"), listen="x:1", log_level=level)
    (router, *_) = plan(deployment, FOLDER, parent_pid=1, environment={})

    assert router.environment["TRIPTYCH_ROUTER_LOG_LEVEL"] == written
    assert router.shown_from == shown_from


def test_a_service_may_be_shown_from_a_level_of_its_own():
    environment = {"TRIPTYCH_TOKENIZER_LOG_LEVEL": "debug"}
    plans = plan(DEPLOYMENT, FOLDER, parent_pid=1, environment=environment)

    assert [one.shown_from for one in plans] == [20, 10, 20, 20]
    assert told("tokenizer", **environment)["LOG_LEVEL"] == "debug"


def test_an_unknown_log_level_is_refused():
    deployment = Deployment(checkpoint=Path("/m"), listen="x:1", log_level="loud")

    with pytest.raises(StartError, match="loud"):
        plan(deployment, FOLDER, parent_pid=1, environment={})


def test_a_folder_too_deep_for_sockets_is_refused():
    with pytest.raises(StartError, match="TMPDIR"):
        plan(DEPLOYMENT, Path("/" + "d" * 100), parent_pid=1, environment={})


def test_a_wrong_log_level_is_told_with_who_said_it_and_the_choices():
    with pytest.raises(StartError, match=r"^TRIPTYCH_MODEL_LOG_LEVEL: 'loud' is not one of debug"):
        plan(DEPLOYMENT, FOLDER, parent_pid=42, environment={"TRIPTYCH_MODEL_LOG_LEVEL": "loud"})


def test_the_checkpoints_sampling_is_the_routers_affair_and_only_where_asked_for():
    assert "GENERATION_DEFAULTS" not in told("router")
    asked = replace(DEPLOYMENT, generation_defaults=True)
    assert told("router", asked)["GENERATION_DEFAULTS"] == "true"
    assert "GENERATION_DEFAULTS" not in told("model", asked)


@pytest.mark.parametrize(("said", "grace_s"), [("60", 60.0), ("soon", None), ("nan", None)])
def test_the_grace_of_an_operator_is_known(said, grace_s):
    environment = {"TRIPTYCH_ROUTER_GRACE_S": said}
    router, tokenizer, *_ = plan(DEPLOYMENT, FOLDER, parent_pid=42, environment=environment)

    assert (router.grace_s, tokenizer.grace_s) == (grace_s, None)


def test_the_router_takes_no_larger_requests_than_the_checkpoint_needs_or_the_operator_says():
    limited = replace(DEPLOYMENT, max_request_mib=10)

    assert told("router", limited)["MAX_REQUEST_MIB"] == "10"
    assert told("router", limited, TRIPTYCH_ROUTER_MAX_REQUEST_MIB="3")["MAX_REQUEST_MIB"] == "3"
    assert not any("MAX_REQUEST_MIB" in told(name, limited) for name in ("tokenizer", "model"))
    assert "MAX_REQUEST_MIB" not in told("router")
