"""Several hosts: a router on one, a replica on each of two others, and a cable that is pulled."""

import threading
import time
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.deployments import hosts

from protos import generation_pb2 as g
from protos import generation_pb2_grpc, service_pb2, service_pb2_grpc

_READY_S = 90
_CUT_S = 10
_STREAMS = 8
_TOKENS = 1500

_why_not = hosts.why_not()
pytestmark = pytest.mark.skipif(bool(_why_not), reason=_why_not)


def request(number):
    message = g.GenerateRequest(token_ids=g.TokenIds(ids=[5 + number, 9, 30]))
    message.sampling.seed = 1 + number
    message.stop.max_tokens = _TOKENS
    message.stop.ignore_eos = True
    message.output.token_ids = True
    return message


@contextmanager
def replica(host, checkpoint):
    """A tokenizer, a model and its detokenizer on `host`."""
    at = {name: f"{host.address}:{port}" for name, port in (("t", 7001), ("m", 7002), ("d", 7003))}
    with ExitStack() as running:
        start = running.enter_context
        start(
            host.running(
                "detokenizer_svc",
                listen=at["d"],
                model=checkpoint,
                model_address=at["m"],
                grace_s="1",
            )
        )
        start(host.running("tokenizer_svc", listen=at["t"], model=checkpoint, grace_s="1"))
        start(
            host.running(
                "model_svc",
                listen=at["m"],
                checkpoint=checkpoint,
                dtype="float32",
                kv_tokens="20000",
                grace_s="1",
            )
        )
        yield at


class Cluster:
    def __init__(self, channel, machines):
        self.channel = channel
        self.machines = machines
        self.api = generation_pb2_grpc.GenerationServiceStub(channel)

    def load(self):
        return self.api.GetLoad(g.GetLoadRequest(), timeout=10)

    def until(self, holds):
        deadline = time.monotonic() + _READY_S
        while not holds(self.load()):
            assert time.monotonic() < deadline, self.load()
            time.sleep(0.05)


@pytest.fixture
def cluster(tiny, tmp_path):
    checkpoint, socket = str(tiny), f"unix:{tmp_path}/router.sock"
    with hosts.hosts(3) as (front, *backs), ExitStack() as running:
        ats = [running.enter_context(replica(back, checkpoint)) for back in backs]
        running.enter_context(
            front.running(
                "router",
                listen=socket,
                tokenizer=ats[0]["t"],
                replicas=",".join(f"{at['m']}+{at['d']}" for at in ats),
                grace_s="1",
            )
        )
        with grpc.insecure_channel(socket) as channel:
            cluster = Cluster(channel, dict(zip((at["m"] for at in ats), backs, strict=True)))
            _until_serving(channel)
            cluster.until(lambda load: all(one.ready for one in load.replicas))
            yield cluster


def _until_serving(channel):
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=_READY_S
    )
    for answer in watch:
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            watch.cancel()
            return


def ids_of(call):
    return [id_ for message in call for delta in message.deltas for id_ in delta.token_ids]


def test_what_a_host_ran_that_is_cut_off_finishes_elsewhere_with_the_same_tokens(cluster):
    undisturbed = [ids_of(cluster.api.GenerateStream(request(i))) for i in range(_STREAMS)]
    links = service_pb2_grpc.IntrospectionServiceStub(cluster.channel).Describe(
        service_pb2.DescribeRequest(), timeout=10
    )
    seen: list[list[int]] = [[] for _ in range(_STREAMS)]

    def read(number, call):
        for message in call:
            seen[number] += [id_ for delta in message.deltas for id_ in delta.token_ids]

    calls = [cluster.api.GenerateStream(request(i), timeout=120) for i in range(_STREAMS)]
    readers = [threading.Thread(target=read, args=pair) for pair in enumerate(calls)]
    for reader in readers:
        reader.start()
    cluster.until(lambda load: all(one.running for one in load.replicas) and all(seen))
    address, lost = next(reversed(cluster.machines.items()))
    lost.pull_cable()
    left = sum(len(ids) < _TOKENS for ids in seen)
    threading.Timer(_CUT_S, lost.plug_in).start()
    cluster.until(lambda load: not next(r for r in load.replicas if r.address == address).running)
    moved = cluster.load()
    for reader in readers:
        reader.join()

    assert {link.transport for link in links.links} == {service_pb2.TRANSPORT_INLINE}
    assert left, "all had ended before the cable was pulled"
    assert not next(r for r in moved.replicas if r.address == address).ready
    assert seen == undisturbed
    cluster.until(lambda load: all(one.ready for one in load.replicas))
    cluster.until(lambda load: not (load.running or load.kv_slots_used))
