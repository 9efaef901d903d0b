"""Facts about the project as a whole, each of which a change elsewhere can break unnoticed."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chassis import config

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")
COMPOSE, COMPOSE_REPLICAS = (
    yaml.safe_load(_VARIABLE.sub(r"\1", (ROOT / name).read_text()))
    for name in ("compose.yaml", "compose.replicas.yaml")
)
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PACKAGES = [
    pattern.removesuffix("*")
    for pattern in PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
]
REQUIREMENTS = [
    Requirement(line)
    for line in (
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["serve"],
        *PYPROJECT["dependency-groups"]["dev"],
        *PYPROJECT["dependency-groups"]["protos"],
    )
]


SERVICES = {
    "router": "router",
    "tokenizer": "tokenizer_svc",
    "model": "model_svc",
    "detokenizer": "detokenizer_svc",
}


def settings_of(service: str) -> type[config.ServiceSettings]:
    module = importlib.import_module(f"{SERVICES[service]}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and config.ServiceSettings in value.__bases__
    )
    return found


def spell_default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return str(field.default).lower().removesuffix(".0")


def documented_defaults(introduction: str) -> dict[str, str]:
    """The table that follows a line of docs/operations.md, setting to default."""
    text = (ROOT / "docs" / "operations.md").read_text()
    table = text.split(f"{introduction}\n\n")[1].split("\n\n")[0]
    return dict(re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+?)`? \|", table, re.MULTILINE))


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_dependency_is_pinned_within_its_range(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_torch_is_pinned_without_a_local_part() -> None:
    assert pins()["torch"] == "2.13.0"


def test_every_package_is_typed_layered_and_in_the_image() -> None:
    tools = PYPROJECT["tool"]
    copied = re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    sent = re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(PACKAGES) <= {*tools["mypy"]["packages"]}
    assert sorted(PACKAGES) == sorted(tools["importlinter"]["root_packages"])
    assert sorted(PACKAGES) == sorted(copied)
    assert set(PACKAGES) <= {*sent}


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_documents_name_only_targets_that_exist(document: Path) -> None:
    text = document.read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    commands = [
        *re.findall(r"^make ([a-z][a-z -]*)", blocks, re.MULTILINE),
        *re.findall(r"`make ([a-z][a-z -]*)", text),
    ]
    assert {target for command in commands for target in command.split()} <= make_targets()


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_documents_link_only_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_promised_targets_exist() -> None:
    promised = {"demo", "test", "setup", "lint", "protos", "bench", "up"}
    assert promised <= make_targets()


def test_the_changelog_tells_of_this_version() -> None:
    version = PYPROJECT["project"]["version"]
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_decision_is_listed() -> None:
    folder = ROOT / "docs" / "adr"
    listed = re.findall(r"\((\d{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_checked_restarted_and_confined(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    prefix = f"TRIPTYCH_{name.upper()}_"
    probed = service["healthcheck"]["test"][-1]
    listen = service["environment"][f"{prefix}LISTEN"]
    assert service["healthcheck"]["test"][:4] == ["CMD", "python", "-m", "chassis.healthcheck"]
    assert service["healthcheck"]["test"][4] == "--patient"  # or an idle deployment is not idle
    assert probed == listen.replace("0.0.0.0", "127.0.0.1")
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert {volume["target"] for volume in service["volumes"]} >= {"/dev/shm", "/run/triptych"}


def test_the_router_starts_once_the_others_serve() -> None:
    gates = {name: COMPOSE["services"][name].get("depends_on", {}) for name in SERVICES}
    assert gates["router"].keys() == SERVICES.keys() - {"router"}
    conditions = {gate["condition"] for wanted in gates.values() for gate in wanted.values()}
    assert conditions == {"service_healthy"}


@pytest.mark.parametrize("service", SERVICES)
def test_the_containers_are_set_as_their_services_allow(service: str) -> None:
    environment = COMPOSE["services"][service]["environment"]
    settings = config.load(settings_of(service), f"TRIPTYCH_{service.upper()}", environment)
    assert settings.listen


def test_only_the_four_services_start_unasked() -> None:
    asked = {name for name, service in COMPOSE["services"].items() if "profiles" in service}
    assert COMPOSE["services"].keys() - asked == SERVICES.keys()


def test_the_router_knows_the_replicas_there_are() -> None:
    one, two = COMPOSE["services"], COMPOSE_REPLICAS["services"]
    listening = {
        name: environment[f"TRIPTYCH_{name.partition('-')[0].upper()}_LISTEN"]
        for name, environment in (
            ("model", one["model"]["environment"]),
            ("detokenizer", one["detokenizer"]["environment"]),
            ("model-2", two["model-2"]["environment"]),
            ("detokenizer-2", two["detokenizer-2"]["environment"]),
        )
    }
    addresses = list(listening.values())
    first, second = "+".join(addresses[:2]), "+".join(addresses[2:])
    name = "TRIPTYCH_ROUTER_REPLICAS"
    assert one["router"]["environment"][name] == first
    assert two["router"]["environment"][name] == f"{first},{second}"
    assert two["router"]["depends_on"].keys() == {"model-2", "detokenizer-2"}


@pytest.mark.parametrize("service", SERVICES)
def test_the_manual_lists_every_setting_with_its_default(service: str) -> None:
    shared = {field.name for field in dataclasses.fields(config.ServiceSettings)}
    own = {
        field.name.upper(): spell_default(field)
        for field in dataclasses.fields(settings_of(service))
        if field.name not in shared
    }
    told = documented_defaults(f"{service.title()}, `TRIPTYCH_{service.upper()}_`:")
    # An empty default is told in words.
    assert told.keys() == own.keys()
    assert {name: default for name, default in told.items() if own[name]} == {
        name: default for name, default in own.items() if default
    }


def test_the_manual_lists_what_all_services_take() -> None:
    fields = dataclasses.fields(config.ServiceSettings)
    expected = {field.name.upper(): spell_default(field) for field in fields}
    line = "or\n`TRIPTYCH_DETOKENIZER_`:"
    assert documented_defaults(line) == expected
