"""The Kubernetes manifests, as they are written and as they are rendered."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from chassis import config

Object = dict[str, Any]

ROOT = Path(__file__).resolve().parents[3]
KUBERNETES = ROOT / "deploy" / "kubernetes"
ENVOY = ROOT / "deploy" / "envoy"
OVERLAYS = {
    path.parent.name: path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml")
}
COMPONENTS = {
    "envoy": ENVOY,
    **{
        path.parent.name: path.parent for path in KUBERNETES.glob("components/*/kustomization.yaml")
    },
}
RENDERED = [*OVERLAYS, *COMPONENTS]
BASE = KUBERNETES / "base"


@cache
def objects(name: str) -> list[Object]:
    """The base as it is written; an overlay, or the base with a component, as it is rendered."""
    if name == "base":
        return documents(*sorted(BASE.glob("[!k]*.yaml")))
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which renders the overlays")
    if name in OVERLAYS:
        return kustomized(OVERLAYS[name])
    with TemporaryDirectory() as folder:
        near = {
            part: os.path.relpath(path, folder)
            for part, path in (*COMPONENTS.items(), ("base", BASE))
        }
        wanted = {"resources": [near["base"]], "components": [near[name]]}
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(wanted))
        return kustomized(Path(folder))


def kustomized(folder: Path) -> list[Object]:
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(name: str, *kinds: str) -> list[Object]:
    return [one for one in objects(name) if one["kind"] in kinds]


def pods_of(name: str) -> list[Object]:
    """Templates of pods."""
    return [one["spec"]["template"] for one in of_kind(name, "Deployment", "StatefulSet")]


def services_of(name: str) -> Iterator[Object]:
    """Containers that run a service of ours."""
    for pod in pods_of(name):
        for container in pod["spec"]["containers"]:
            if container["name"] != "envoy":
                yield container


def selected(name: str, labels: dict[str, str]) -> list[Object]:
    return [pod for pod in pods_of(name) if labels.items() <= pod["metadata"]["labels"].items()]


def settings_of(container: Object) -> config.ServiceSettings:
    """What a container's service makes of its environment; it refuses what it does not know."""
    module = importlib.import_module(f"{container['args'][0]}.settings")
    (found,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and config.ServiceSettings in one.__bases__
    )
    prefix = f"TRIPTYCH_{container['name'].upper()}"
    settings: config.ServiceSettings = config.load(found, prefix, environment(container))
    return settings


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def ports_of(pods: list[Object]) -> dict[str, int]:
    """Ports of all containers, by name."""
    return {
        port["name"]: port["containerPort"]
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }


def documents(*files: Path) -> list[dict[str, Any]]:
    """The objects that manifests hold."""
    return [one for file in files for one in yaml.safe_load_all(file.read_text())]


def environment(container: Mapping[str, Any]) -> dict[str, str]:
    """What a container is told; of its resources it is told 1."""
    return {one["name"]: one.get("value", "1") for one in container["env"]}
