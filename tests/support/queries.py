"""What a PromQL expression asks for, as far as tests compare it with what is measured."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping

import pytest

# Brought along by the scrape, or by a histogram.
FROM_SCRAPE = {"job", "instance", "namespace", "service", "replica"}

_SELECTOR = re.compile(r"\b((?:triptych|process)[\w:]*|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!=|!~|=)\s*"([^"]*)"')


def selectors(expression: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The metrics that an expression names, each with the values that it wants of labels."""
    for name, matchers in _SELECTOR.findall(expression):
        yield name, {label: value for label, _, value in _MATCHER.findall(matchers)}


def unknown(expression: str, measured: Mapping[str, Mapping[str, set[str]]]) -> list[str]:
    """What an expression names and nobody measures: a metric, a label of one, a label's value."""
    wrong = []
    for name, wanted in selectors(expression):
        if name not in measured:
            wrong.append(name)
            continue
        for label in wanted.keys() - FROM_SCRAPE:
            seen = measured[name].get(label)
            if seen is None or (label != "outcome" and wanted[label] not in seen):
                wrong.append(f"{name}: {label}={wanted[label]}")
    return wrong


def find_promtool() -> str:
    """Where promtool is; the test is skipped where it is not."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here, which Debian's package prometheus brings")
    return promtool
