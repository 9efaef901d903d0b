"""A survey asks every service of a deployment, and says what those say that answer."""

from contextlib import AsyncExitStack, asynccontextmanager

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from prometheus_client import Counter

from chassis.config import ServiceSettings
from chassis.serving.server import serving
from protos import generation_pb2, generation_pb2_grpc, service_pb2
from triptych import deployment_status

NOBODY = "unix:/nowhere/model.sock"


class Generation(generation_pb2_grpc.GenerationServiceServicer):
    async def ListModels(self, request, context):  # noqa: N802
        return generation_pb2.ListModelsResponse()

    async def GetLoad(self, request, context):  # noqa: N802
        return generation_pb2.GetLoadResponse()


def link(service, address, ready):
    return service_pb2.Link(service=service, address=address, ready=ready)


def mount(counters, links=(), ready=True):
    @asynccontextmanager
    async def mounted(host):
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(Generation(), host.server)
        for name, count in counters.items():
            Counter(name, ".", registry=host.registry).inc(count)
        host.list_links = lambda: links
        await host.set_ready(ready)
        yield

    return mounted


@asynccontextmanager
async def deployment(tmp_path, *, ready=True):
    """A router, and two replicas of which nobody answers for the second model."""
    async with AsyncExitStack() as running:
        addresses = []
        for number in (0, 1):
            settings = ServiceSettings(listen=f"unix:{tmp_path}/{number}.sock", restarts=number)
            counters = {"triptych_detokenizer_replays": 2 + number}
            one = await running.enter_async_context(
                serving("detokenizer", mount(counters), settings)
            )
            addresses.append(one.address)
        links = [
            link("model", addresses[0], True),
            link("detokenizer", addresses[0], True),
            link("model", NOBODY, False),
            link("detokenizer", addresses[1], False),
        ]
        settings = ServiceSettings(listen="127.0.0.1:0", restarts=4)
        counters = {"triptych_router_resubmissions": 7}
        router = await running.enter_async_context(
            serving("router", mount(counters, links, ready), settings)
        )
        yield router.address


async def test_figures_are_summed_over_the_services_that_answer(tmp_path):
    async with deployment(tmp_path) as address:
        seen = await deployment_status.collect(address)

    assert seen.recovery.resubmissions == 7
    # One server answers for the first model and its detokenizer alike.
    assert seen.recovery.replays == 2 + 2 + 3


async def test_replicas_are_numbered_in_the_routers_order(tmp_path):
    async with deployment(tmp_path) as address:
        seen = await deployment_status.collect(address)

    assert [one.replica for one in seen.services] == [None, 0, 0, 1, 1]


async def test_restarts_are_what_each_service_says_and_unknown_of_those_away(tmp_path):
    async with deployment(tmp_path) as address:
        seen = await deployment_status.collect(address)

    assert [one.restarts for one in seen.services] == [4, 0, 0, None, 1]
    assert [one.reached for one in seen.services] == [True, True, True, False, True]
    assert [one.ready for one in seen.services] == [True, True, True, False, False]


async def test_a_router_that_takes_no_requests_is_surveyed_all_the_same(tmp_path):
    async with deployment(tmp_path, ready=False) as address:
        seen = await deployment_status.collect(address)

    assert not seen.services[0].ready
    assert len(seen.services) == 5


async def test_what_a_proxy_keeps_back_is_missed_and_no_failure():
    behind = aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(Generation(), behind)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, behind)
    address = f"127.0.0.1:{behind.add_insecure_port('127.0.0.1:0')}"
    await behind.start()

    seen = await deployment_status.collect(address)
    await behind.stop(None)

    (router,) = seen.services
    assert (router.name, router.address, router.ready) == ("router", address, True)
    assert not router.reached
