"""The dashboard shows what is measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from support import queries

DEPLOY = Path(__file__).parent.parent.parent / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "triptych.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_panels_ask_only_for_what_is_measured(
    measured: Mapping[str, Mapping[str, set[str]]],
) -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())["groups"]
    records = {
        rule["record"]: {} for group in groups for rule in group["rules"] if "record" in rule
    }
    wrong = [
        one for asked in EXPRESSIONS for one in queries.unknown(asked, {**measured, **records})
    ]
    assert wrong == []


def test_panels_are_of_the_deployment_that_was_chosen() -> None:
    for expression in EXPRESSIONS:
        for name, wanted in queries.selectors(expression):
            assert wanted.get("namespace") == "$namespace", name


def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$namespace", ".*")}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    command = [queries.find_promtool(), "check", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_panel_lies_over_another() -> None:
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in PANELS
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    numbers = [panel["id"] for panel in PANELS]
    assert all(one < other for one, other in pairwise(numbers))


def test_every_panel_is_named_and_says_in_what_unit() -> None:
    assert all(panel["title"] and panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS)
