"""The manifests that bring a checkpoint into a cluster fit those that serve it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml
from support.deployments.manifests import KUBERNETES, ROOT

from chassis import checkpoint_folder

FOLDER = KUBERNETES / "checkpoint"
OBJECTS: dict[str, Any] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))
}
PODS = {"copy": OBJECTS["copy"]["spec"], "fetch": OBJECTS["fetch"]["spec"]["template"]["spec"]}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_takes_them(version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="no package kubernetes-validate")
    for one in OBJECTS.values():
        schemas.validate(one, version, strict=True)


@pytest.mark.parametrize("name", PODS)
def test_they_fill_the_claim_that_replicas_read(name: str) -> None:
    component = KUBERNETES / "components" / "model-claim" / "kustomization.yaml"
    (patch,) = yaml.safe_load(component.read_text())["patches"]
    read = yaml.safe_load(patch["patch"])["spec"]["template"]["spec"]
    (volume,) = read["volumes"]
    claim = OBJECTS["claim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim
    (container,) = PODS[name]["containers"]
    places = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    claims = {
        one["persistentVolumeClaim"]["claimName"]: places[one["name"]]
        for one in PODS[name]["volumes"]
        if "persistentVolumeClaim" in one
    }
    (mount,) = (one for one in read["containers"][0]["volumeMounts"])
    assert claims == {claim: mount["mountPath"]}


@pytest.mark.parametrize("name", PODS)
def test_they_run_this_versions_image_as_its_user(name: str) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (container,) = PODS[name]["containers"]
    assert container["image"] == f"triptych:{version}"
    assert PODS[name]["securityContext"]["runAsUser"] == 10001
    assert PODS[name]["securityContext"]["fsGroup"] == 10001


def test_what_is_fetched_is_what_serve_fetches() -> None:
    (container,) = PODS["fetch"]["containers"]
    (script,) = container["args"]
    compile(script, "fetch", "exec")
    assert str(list(checkpoint_folder._WANTED)).replace("'", '"') in script
