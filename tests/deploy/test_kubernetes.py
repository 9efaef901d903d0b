"""The Kubernetes manifests agree with each other and with what the services take."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from typing import Any

import pytest
import yaml
from support.deployments.manifests import (
    BASE,
    RENDERED,
    ROOT,
    environment,
    objects,
    of_kind,
    pods_of,
    port_of,
    ports_of,
    services_of,
    settings_of,
)

from chassis.serving.health import SELF
from router.settings import check_ranges, replica_addresses

OLDEST, WITH_IMAGE_VOLUMES, NEWEST = "1.30", "1.33", "1.37"
WITHOUT_A_SCHEMA = {"PodMonitor"}
LEAST_TO_END_S = 5

everywhere = pytest.mark.parametrize("name", ["base", *RENDERED])


@pytest.mark.parametrize("version", [OLDEST, WITH_IMAGE_VOLUMES, NEWEST])
def test_kubernetes_takes_every_object(version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="no package kubernetes-validate")
    without = {"model-image"} if version == OLDEST else set[str]()
    distinct = {
        json.dumps(one): one for name in RENDERED if name not in without for one in objects(name)
    }
    for one in distinct.values():
        if one["kind"] not in WITHOUT_A_SCHEMA:
            schemas.validate(one, version, strict=True)


@everywhere
def test_services_take_all_that_they_are_told(name: str) -> None:
    for container in services_of(name):
        assert importlib.util.find_spec(f"{container['args'][0]}.__main__")
        settings = settings_of(container)
        ports = {port["containerPort"] for port in container["ports"]}
        assert {port_of(settings.listen), port_of(settings.metrics_listen)} == ports


@everywhere
def test_containers_bring_no_setting_of_another_service(name: str) -> None:
    for container in services_of(name):
        prefix = f"TRIPTYCH_{container['name'].upper()}_"
        foreign = [one for one in environment(container) if not one.startswith(prefix)]
        assert [one for one in foreign if one.startswith("TRIPTYCH_")] == []


@everywhere
def test_probes_ask_for_what_services_tell(name: str) -> None:
    for container in services_of(name):
        asked = {
            kind: container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")
        }
        assert {one["port"] for one in asked.values()} == {port_of(settings_of(container).listen)}
        assert {one.get("service", "") for one in asked.values()} <= {"", SELF}
        # What waits for another service is not dead.
        assert asked["liveness"]["service"] == SELF


@everywhere
def test_routers_know_every_replica_there_may_be(name: str) -> None:
    (stateful,) = of_kind(name, "StatefulSet")
    scalers = of_kind(name, "HorizontalPodAutoscaler")
    most = scalers[0]["spec"]["maxReplicas"] if scalers else stateful["spec"]["replicas"]
    (router,) = (one for one in services_of(name) if one["name"] == "router")
    settings: Any = settings_of(router)
    check_ranges(settings)
    ports = ports_of([stateful["spec"]["template"]])
    base = stateful["metadata"]["name"]
    hosts = [f"{base}-{number}.{stateful['spec']['serviceName']}" for number in range(most)]
    assert [(one.model, one.detokenizer) for one in replica_addresses(settings)] == [
        (f"{host}:{ports['model']}", f"{host}:{ports['detokenizer']}") for host in hosts
    ]


@everywhere
def test_the_autoscaler_alone_says_how_many_replicas_there_are(name: str) -> None:
    (stateful,) = of_kind(name, "StatefulSet")
    scaled = [one["spec"]["scaleTargetRef"] for one in of_kind(name, "HorizontalPodAutoscaler")]
    assert [one["name"] for one in scaled] in ([], [stateful["metadata"]["name"]])
    assert ("replicas" in stateful["spec"]) is not bool(scaled)


@everywhere
def test_the_routers_tokenizer_is_a_service_of_the_replicas(name: str) -> None:
    (router,) = (one for one in services_of(name) if one["name"] == "router")
    host, _, port = environment(router)["TRIPTYCH_ROUTER_TOKENIZER"].partition(":")
    (service,) = (one for one in of_kind(name, "Service") if one["metadata"]["name"] == host)
    assert [one["port"] for one in service["spec"]["ports"]] == [int(port)]
    assert [one["targetPort"] for one in service["spec"]["ports"]] == ["tokenizer"]


@everywhere
def test_the_detokenizer_reads_the_model_beside_it(name: str) -> None:
    told = {one["name"]: environment(one) for one in services_of(name)}
    address = told["detokenizer"]["TRIPTYCH_DETOKENIZER_MODEL_ADDRESS"]
    assert address == f"127.0.0.1:{port_of(told['model']['TRIPTYCH_MODEL_LISTEN'])}"


@everywhere
def test_a_replicas_services_read_one_checkpoint_and_share_memory(name: str) -> None:
    containers = [one for one in services_of(name) if one["name"] != "router"]
    told = [environment(one) for one in containers]
    names = ("TRIPTYCH_MODEL_CHECKPOINT", "TRIPTYCH_TOKENIZER_MODEL", "TRIPTYCH_DETOKENIZER_MODEL")
    assert len({one[key] for one in told for key in names if key in one}) == 1
    (pod,) = (pod for pod in pods_of(name) if len(pod["spec"]["containers"]) == 3)
    memory = {
        one["name"] for one in pod["spec"]["volumes"] if one.get("emptyDir", {}).get("medium")
    }
    for container in containers:
        mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        assert mounts["/dev/shm"] in memory


@everywhere
def test_who_is_told_to_stop_gets_the_time_it_takes(name: str) -> None:
    for pod in pods_of(name):
        for container in pod["spec"]["containers"]:
            ours = container["name"] != "envoy"
            needs_s = settings_of(container).grace_s if ours else 0
            before = container.get("lifecycle", {}).get("preStop", {})
            needs_s += before.get("sleep", {}).get("seconds", 0)
            script = before.get("exec", {}).get("command", [""])[-1]
            needs_s += sum(int(seconds) for seconds in re.findall(r"sleep (\d+)", script))
            assert pod["spec"]["terminationGracePeriodSeconds"] >= needs_s + LEAST_TO_END_S


@everywhere
def test_pods_may_do_no_more_than_they_must(name: str) -> None:
    for pod in pods_of(name):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]


@everywhere
def test_all_that_is_mounted_is_there(name: str) -> None:
    for pod in pods_of(name):
        volumes = {one["name"] for one in pod["spec"]["volumes"]}
        mounts = [one for box in pod["spec"]["containers"] for one in box["volumeMounts"]]
        assert {one["name"] for one in mounts} == volumes


def test_the_autoscaler_asks_for_metrics_that_the_adapter_offers() -> None:
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yaml").read_text())
    offered = {rule["name"]["as"] for rule in adapter["rules"]["external"]}
    (scaler,) = of_kind("base", "HorizontalPodAutoscaler")
    asked = {one["external"]["metric"]["name"] for one in scaler["spec"]["metrics"]}
    assert asked == offered


def test_the_base_runs_this_version_as_the_images_user() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    base = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert base["images"] == [{"name": "triptych", "newTag": version}]
    dockerfile = (ROOT / "Dockerfile").read_text()
    (uid,) = re.findall(r"useradd .*--uid (\d+)", dockerfile)
    assert {pod["spec"]["securityContext"]["runAsUser"] for pod in pods_of("base")} == {int(uid)}
    told = {value for box in services_of("base") for value in environment(box).values()}
    (bundled,) = (value for value in told if value.startswith("/models/"))
    assert f"COPY {bundled[1:]} {bundled}\n" in dockerfile
