from __future__ import annotations

from pathlib import Path
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from chassis.links.credentials import add_port, channel

ROOT = Path(__file__).parents[3]
PRODUCT = ("chassis", "router", "tokenizer_svc", "model_svc", "detokenizer_svc", "triptych")


def test_ports_and_channels_are_opened_in_one_place():
    opening = [
        str(path.relative_to(ROOT))
        for folder in PRODUCT
        for path in (ROOT / folder).rglob("*.py")
        if any(word in path.read_text() for word in ("insecure_channel", "add_insecure_port"))
    ]
    assert opening == ["chassis/links/credentials.py"]


async def test_a_channel_reaches_a_port():
    server = aio.server()
    servicer: Any = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = add_port(server, "127.0.0.1:0")
    await server.start()
    async with channel(f"127.0.0.1:{port}") as opened:
        answer = await health_pb2_grpc.HealthStub(opened).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
    await server.stop(None)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
