"""Prometheus takes the rules, they fire when they should, and all they name is measured."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import queries

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
CASES = Path(__file__).parent / "rules.test.yaml"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule["alert"] for rule in RULES if "alert" in rule]
RECORDS = {rule["record"]: dict[str, set[str]](outcome=set()) for rule in RULES if "record" in rule}
SCRAPES = {"up": dict[str, set[str]]()}


def named(rule: Mapping[str, Any]) -> str:
    return str(rule.get("alert") or rule["record"])


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "--lint-fatal", FOLDER / "rules.yaml"),
        ("check", "config", FOLDER / "prometheus.yaml"),
        ("test", "rules", CASES),
    ],
    ids=["rules are well formed", "configuration is well formed", "rules do what they should"],
)
def test_promtool_finds_that(command: tuple[str | Path, ...]) -> None:
    done = subprocess.run(
        [queries.find_promtool(), *map(str, command)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", RULES, ids=named)
def test_rules_name_only_what_is_measured(
    rule: Mapping[str, Any], measured: Mapping[str, Mapping[str, set[str]]]
) -> None:
    assert queries.unknown(rule["expr"], {**measured, **RECORDS, **SCRAPES}) == []


def test_the_autoscalers_metrics_are_measured(
    measured: Mapping[str, Mapping[str, set[str]]],
) -> None:
    adapter = yaml.safe_load((FOLDER / "adapter.yaml").read_text())
    for rule in adapter["rules"]["external"]:
        for expression in (rule["seriesQuery"], rule["metricsQuery"]):
            assert [*queries.selectors(expression)] != []
            assert queries.unknown(expression, measured) == []


def test_failures_are_counted_by_reasons_that_there_are() -> None:
    asked = {
        outcome
        for rule in RULES
        for _, wanted in queries.selectors(rule["expr"])
        for outcome in wanted.get("outcome", "").split("|")
    } - {""}
    sources = [path for name in ("chassis", "router") for path in (ROOT / name).rglob("*.py")]
    sources += (ROOT / "tokenizer_svc").glob("*.py")
    spoken = "\n".join(path.read_text() for path in sources)
    assert {one for one in asked if f'"{one.upper()}"' not in spoken} == set()


def test_every_alert_is_shown_to_fire() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {
        one["alertname"]
        for case in cases
        for one in case.get("alert_rule_test", [])
        if one["exp_alerts"]
    }
    assert fired == set(ALERTS)


def test_the_manual_tells_what_each_alert_means() -> None:
    manual = (ROOT / "docs" / "metrics.md").read_text()
    assert re.findall(r"^\| `(Triptych\w+)` \|", manual, re.MULTILINE) == ALERTS


def test_the_manual_tells_of_everything_that_is_measured(
    measured: Mapping[str, Mapping[str, set[str]]],
) -> None:
    manual = (ROOT / "docs" / "metrics.md").read_text()
    told = set(re.findall(r"`(triptych_\w+)`", manual))
    of_histograms = re.compile(r"_(bucket|sum|count)$")
    there = {of_histograms.sub("", name) for name in measured if name.startswith("triptych_")}
    assert told == {name for name in there if not name.endswith("_created")}
