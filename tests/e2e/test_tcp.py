"""The four services as four commands, linked over TCP: what runs where there is no supervisor."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.deployments import local

from protos import generation_pb2 as g
from protos import generation_pb2_grpc, service_pb2, service_pb2_grpc

_READY_S = 60


def free_ports(count):
    with ExitStack() as opened:
        sockets = [
            opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def service(module, **settings):
    """Run `python -m module` inside the block, set by variables alone."""
    name = module.removesuffix("_svc").upper()
    env = {f"TRIPTYCH_{name}_{key.upper()}": value for key, value in settings.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=local.ROOT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(20) == 0, f"{module} did not end cleanly"
        finally:
            process.kill()


def await_serving(channel):
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=_READY_S
    )
    for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            watch.cancel()
            return


def test_services_linked_over_tcp_answer_and_end_in_any_order(tiny):
    ports = dict(zip(("tokenizer", "model", "detokenizer", "router"), free_ports(4), strict=True))
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    with ExitStack() as running:
        # The router first: it has to wait for the others, and is the last to end.
        running.enter_context(
            service(
                "router",
                listen=at["router"],
                tokenizer=at["tokenizer"],
                replicas=f"{at['model']}+{at['detokenizer']}",
            )
        )
        running.enter_context(
            service(
                "detokenizer_svc",
                listen=at["detokenizer"],
                model=str(tiny),
                model_address=at["model"],
                grace_s="1",
            )
        )
        running.enter_context(
            service("tokenizer_svc", listen=at["tokenizer"], model=str(tiny), grace_s="1")
        )
        running.enter_context(
            service("model_svc", listen=at["model"], checkpoint=str(tiny), grace_s="1")
        )
        with grpc.insecure_channel(at["router"]) as channel:
            await_serving(channel)
            api = generation_pb2_grpc.GenerationServiceStub(channel)
            request = g.GenerateRequest(text="over tcp", stop=g.StopConditions(max_tokens=5))
            request.stop.ignore_eos = True
            answer = api.Generate(request, timeout=30)
            links = service_pb2_grpc.IntrospectionServiceStub(channel).Describe(
                service_pb2.DescribeRequest(), timeout=10
            )

    assert answer.usage.completion_tokens == 5
    assert {link.address for link in links.links} == set(at.values()) - {at["router"]}
