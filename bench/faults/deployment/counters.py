"""Counters of recovery, over all services."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from prometheus_client.parser import text_string_to_metric_families

from chassis.links.channels import open_channel
from protos import service_pb2, service_pb2_grpc
from triptych import deployment_status

RESUBMITTED = "resubmitted"
FENCED_DELTAS = "fenced deltas"
FENCED_ROWS = "fenced rows"

_ANSWER_S = 5.0
_COUNTED = {
    "triptych_router_resubmissions_total": RESUBMITTED,
    "triptych_router_reregistrations_total": "registered again",
    "triptych_router_crash_implications_total": "implicated",
    "triptych_router_fenced_deltas_total": FENCED_DELTAS,
    "triptych_detokenizer_fenced_rows_total": FENCED_ROWS,
    "triptych_detokenizer_replays_total": "replayed",
    "triptych_tokenizer_worker_restarts_total": "workers replaced",
}

Counters = dict[str, dict[str, float]]
"""Address of a service → counter → value."""


async def read(address: str) -> Counters:
    """The counters of all services of the deployment at `address`."""
    found = {}
    for service in (await deployment_status.collect(address)).services:
        found[service.address] = await _scrape(service.address)
    return found


async def _scrape(address: str) -> dict[str, float]:
    async with open_channel(address) as channel:
        stub: service_pb2_grpc.IntrospectionServiceAsyncStub = (
            service_pb2_grpc.IntrospectionServiceStub(channel)
        )
        try:
            answer = await stub.Scrape(service_pb2.ScrapeRequest(), timeout=_ANSWER_S)
        except grpc.RpcError:
            return {}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(answer.text.decode()):
        for sample in family.samples:
            if sample.name in _COUNTED:
                name = _COUNTED[sample.name]
                found[name] = found.get(name, 0.0) + sample.value
    return found


def rises(before: Mapping[str, Mapping[str, float]], after: Counters) -> dict[str, float]:
    """Rise of each counter, over all services.

    A process that died took its counts with it; of its successor, all are new.
    """
    risen = dict.fromkeys(_COUNTED.values(), 0.0)
    for address, counters in after.items():
        for name, value in counters.items():
            earlier = before.get(address, {}).get(name, 0.0)
            risen[name] += value - earlier if value >= earlier else value
    return risen
