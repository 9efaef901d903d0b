"""What the services measure, told by the objects that measure it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from chassis.metrics import new_registry
from detokenizer_svc.model_link import LinkMetrics
from model_svc.metrics import ModelMetrics
from protos import service_pb2
from router.metrics import LinkCollector, RecoveryMetrics, RouterMetrics
from tokenizer_svc.servicer import TokenizerMetrics
from triptych.supervisor.child import Child
from triptych.supervisor.metrics_proxy import DeploymentCollector

Values = Mapping[str, set[str]]
"""Labels of a metric, and the values that each was seen with."""


def _services() -> CollectorRegistry:
    """What the four services measure, each figure measured once."""
    registry = new_registry()
    RouterMetrics(registry, int, int).requests.labels("ok").inc()
    RecoveryMetrics(registry)
    transports = (service_pb2.TRANSPORT_SHARED_MEMORY, service_pb2.TRANSPORT_INLINE)
    links = [
        service_pb2.Link(service=service, address="a", transport=transport, ready=True)
        for service in ("tokenizer", "model", "detokenizer")
        for transport in transports
    ]
    registry.register(LinkCollector(lambda: links))
    model = ModelMetrics(registry, kv_slots=1)
    model.step(1.0, 1, 1, 1)
    model.load(1, 1, 1)
    LinkMetrics(registry, int)
    TokenizerMetrics(registry, int).requests.labels("text").inc()
    return registry


async def _supervisor(folder: Path) -> bytes:
    """What `triptych serve` adds, of a model that is not there."""
    plan = SimpleNamespace(labels={"service": "model", "replica": "0"})
    child = SimpleNamespace(plan=plan, address=f"unix:{folder}/absent.sock", restarts=0)
    collector = DeploymentCollector([cast(Child, child)], asyncio.get_running_loop())
    registry = CollectorRegistry(auto_describe=False)
    await asyncio.to_thread(registry.register, collector)
    return await asyncio.to_thread(generate_latest, registry)


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Values]:
    """Every metric that is told, by the name of its samples."""
    added = asyncio.run(_supervisor(tmp_path_factory.mktemp("absent")))
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for text in (generate_latest(_services()), added):
        for family in text_string_to_metric_families(text.decode()):
            for sample in family.samples:
                values = found[sample.name]
                for label, value in sample.labels.items():
                    values[label].add(value)
    return {name: dict(values) for name, values in found.items()}
