"""What the proxy does with requests, by a real Envoy before routers that do as they are told."""

from __future__ import annotations

import asyncio
import base64
import http.client
import re
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
import yaml
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.deployments import proxies

from chassis.config import ServiceSettings
from chassis.errors import Unavailable
from chassis.links.channels import open_channel
from chassis.serving.server import Host, serving
from protos import generation_pb2, generation_pb2_grpc, service_pb2, service_pb2_grpc

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAIT_S = 30.0
PROXY = next(yaml.safe_load_all((proxies.DEPLOY / "envoy" / "proxy.yaml").read_text()))
CONTAINER = PROXY["spec"]["template"]["spec"]["containers"][0]
GENERATION = "triptych.v1.GenerationService"
SERVING = health_pb2.HealthCheckResponse.SERVING


class Router(generation_pb2_grpc.GenerationServiceServicer):
    """Answers `messages` messages and then ends as `ends` says, once it may."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.requests: list[generation_pb2.GenerateRequest] = []
        self.ids: list[str] = []
        self.messages = 2
        self.ends: Exception | None = None
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def GenerateStream(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests.append(request)
        self.ids += [value for key, value in context.invocation_metadata() if key == "x-request-id"]
        for number in range(self.messages):
            yield generation_pb2.GenerateStreamResponse(request_id=str(number))
            await self.may_go_on.wait()
        if self.ends is not None:
            raise self.ends


@dataclass
class Front:
    """An Envoy, its routers, and a client of it."""

    host: str
    channel: aio.Channel
    routers: list[Router]
    hosts: list[Host]

    def generate(self, text: str = "", **metadata: str) -> Any:
        stub = generation_pb2_grpc.GenerationServiceStub(self.channel)
        request = generation_pb2.GenerateRequest(text=text)
        pairs = tuple((key.replace("_", "-"), value) for key, value in metadata.items())
        return stub.GenerateStream(request, timeout=WAIT_S, metadata=pairs)

    def told(self) -> list[int]:
        """How many requests each router was given."""
        return [len(router.requests) for router in self.routers]


def mount_of(router: Router, hosts: list[Host]) -> Callable[[Host], Any]:
    @asynccontextmanager
    async def mount(host: Host) -> AsyncIterator[None]:
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(router, host.server)
        await host.set_ready(True)
        hosts.append(host)
        yield

    return mount


@asynccontextmanager
async def front_in(folder: Path, policy: dict[str, Any] | None = None) -> AsyncIterator[Front]:
    """An Envoy before two routers; `policy` is added to its virtual host."""
    proxies.find_envoy()
    routers, hosts = [Router(), Router()], list[Host]()
    settings = ServiceSettings(listen=f"{proxies.own_address()}:0", grace_s=0)
    async with AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(serving("router", mount_of(router, hosts), settings))
            for router in routers
        ]
        options = CONTAINER["args"][2:]
        host = await stack.enter_async_context(
            proxies.envoy_before([one.address for one in served], folder, options, policy)
        )
        channel = await stack.enter_async_context(
            open_channel(f"{host}:{proxies.port_of('clients')}")
        )
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=WAIT_S
        )
        yield Front(host, channel, routers, hosts)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def standing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    async with front_in(tmp_path_factory.mktemp("envoy")) as front:
        yield front


@pytest.fixture
def front(standing: Front) -> Front:
    for router in standing.routers:
        router.reset()
    return standing


async def messages_of(call: Any) -> list[str]:
    seen = []
    while (message := await call.read()) is not aio.EOF:
        seen.append(message.request_id)
    return seen


async def metrics_of(front: Front) -> str:
    url = f"http://{front.host}:{proxies.port_of('observers')}/metrics"
    answer = await asyncio.to_thread(urllib.request.urlopen, url, timeout=WAIT_S)
    with answer:
        return str(answer.read().decode())


async def complaints(config: Path) -> list[str]:
    """What Envoy has to say against a configuration."""
    command = [proxies.find_envoy(), "--mode", "validate", "--config-path", str(config)]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=WAIT_S
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return re.findall(r"\[(?:warning|error|critical)\].*", said)


async def test_envoy_finds_nothing_wrong_with_the_configuration() -> None:
    assert await complaints(proxies.CONFIG) == []


async def test_envoy_takes_the_certificate_where_the_manual_adds_one(tmp_path: Path) -> None:
    proxies.find_envoy()
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here, which makes a certificate")
    manual = (proxies.DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(transport_socket:.*?)```", manual, re.DOTALL)
    config = proxies.adapted("127.0.0.1", ["127.0.0.1:1"])
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    chain |= yaml.safe_load(block.replace("/etc/tls", str(tmp_path)))
    (tmp_path / "envoy.yaml").write_text(yaml.safe_dump(config))
    make = "openssl req -x509 -nodes -subj /CN=a -newkey rsa:2048 -keyout tls.key -out tls.crt"
    await asyncio.to_thread(
        subprocess.run, make.split(), cwd=tmp_path, check=True, capture_output=True
    )
    assert await complaints(tmp_path / "envoy.yaml") == []


async def test_pages_of_the_origins_that_the_manual_lets_in_may_call(tmp_path: Path) -> None:
    manual = (proxies.DEPLOY.parent / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(typed_per_filter_config:.*?)```", manual, re.DOTALL)
    policy = yaml.safe_load(block)
    async with front_in(tmp_path, policy) as front:
        asked = {
            "access_control_request_method": "POST",
            "access_control_request_headers": "content-type,x-grpc-web",
        }
        for origin, let_in in (("https://chat.example.org", True), ("https://a.example", False)):
            status, headers, _ = await ask_by_http(front, "OPTIONS", origin=origin, **asked)
            assert (status == 200) == let_in
            assert headers.get("access-control-allow-origin") == (origin if let_in else None)


async def test_requests_of_one_connection_go_to_all_routers(front: Front) -> None:
    for router in front.routers:
        router.may_go_on.clear()
    calls = [front.generate() for _ in range(8)]
    assert [(await call.read()).request_id for call in calls] == ["0"] * 8
    assert min(front.told()) > 0
    for router in front.routers:
        router.may_go_on.set()
    assert [await messages_of(call) for call in calls] == [["1"]] * 8


@pytest.mark.parametrize("size", [10, 500_000])
async def test_what_no_router_began_to_answer_goes_to_another(front: Front, size: int) -> None:
    away, there = front.routers
    away.messages, away.ends = 0, Unavailable("stopping")
    while not away.requests:
        assert await messages_of(front.generate("a" * size)) == ["0", "1"]
    assert {len(request.text) for request in there.requests} == {size}


async def test_what_was_begun_is_not_sent_again(front: Front) -> None:
    for router in front.routers:
        router.messages, router.ends = 1, Unavailable("stopping")
    call = front.generate()
    assert (await call.read()).request_id == "0"
    with pytest.raises(aio.AioRpcError) as ended:
        await call.read()
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert sum(front.told()) == 1


async def test_a_refusal_that_is_the_clients_to_hear_is_not_tried_elsewhere(front: Front) -> None:
    for router in front.routers:
        router.messages, router.ends = 0, ValueError("a bug")
    with pytest.raises(aio.AioRpcError) as ended:
        await messages_of(front.generate())
    assert ended.value.code() == grpc.StatusCode.INTERNAL
    assert sum(front.told()) == 1


async def test_the_clients_request_id_is_the_routers(front: Front) -> None:
    await messages_of(front.generate(x_request_id="mine"))
    await messages_of(front.generate())
    mine, made = [one for router in front.routers for one in router.ids]
    assert "mine" in (mine, made)
    assert len({mine, made} - {"mine"}) == 1


async def test_services_tell_clients_nothing_of_themselves(front: Front) -> None:
    stub = service_pb2_grpc.IntrospectionServiceStub(front.channel)
    with pytest.raises(aio.AioRpcError) as refused:
        await stub.Describe(service_pb2.DescribeRequest(), timeout=WAIT_S)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED


def web_frame(message: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + len(message).to_bytes(4, "big") + message


async def ask_by_http(front: Front, verb: str, body: bytes = b"", **headers: str) -> Any:
    """Send a browser's request; return status, headers and body."""
    port = proxies.port_of("clients")

    def ask() -> Any:
        connection = http.client.HTTPConnection(front.host, port, timeout=WAIT_S)
        with closing(connection):
            pairs = {key.replace("_", "-"): value for key, value in headers.items()}
            connection.request(verb, f"/{GENERATION}/GenerateStream", body, pairs)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    return await asyncio.to_thread(ask)


@pytest.mark.parametrize("kind", ["", "+proto", "-text", "-text+proto"])
async def test_a_browsers_call_is_answered_in_grpc_web(front: Front, kind: str) -> None:
    text = kind.startswith("-text")
    body = web_frame(generation_pb2.GenerateRequest(text="from a page").SerializeToString())
    body = base64.b64encode(body) if text else body
    content = f"application/grpc-web{kind}"
    status, headers, answer = await ask_by_http(
        front, "POST", body, content_type=content, accept=content, x_grpc_web="1"
    )
    assert status == 200
    assert headers["content-type"].startswith(content)
    if text:
        # Each chunk is padded by itself.
        answer = b"".join(map(base64.b64decode, re.findall(rb"[^=]+={0,2}", answer)))
    frames = [
        web_frame(generation_pb2.GenerateStreamResponse(request_id=str(n)).SerializeToString())
        for n in range(2)
    ]
    assert answer.startswith(b"".join(frames) + b"\x80")
    assert b"grpc-status:0" in answer.replace(b" ", b"")
    (request,) = [one for router in front.routers for one in router.requests]
    assert request.text == "from a page"


async def test_a_page_of_another_origin_is_not_let_in(front: Front) -> None:
    status, headers, _ = await ask_by_http(
        front,
        "OPTIONS",
        origin="https://elsewhere.example",
        access_control_request_method="POST",
        access_control_request_headers="content-type,x-grpc-web",
    )
    assert "access-control-allow-origin" not in headers
    assert status >= 400
    assert front.told() == [0, 0]


async def test_what_is_no_grpc_is_not_found(front: Front) -> None:
    status, _, _ = await ask_by_http(front, "POST", b"{}", content_type="application/json")
    assert status == 404
    assert front.told() == [0, 0]


async def health_told(front: Front, healthy: int) -> None:
    """Wait until Envoy takes so many routers for healthy."""
    figure = 'envoy_cluster_membership_healthy{envoy_cluster_name="routers"}'
    async with asyncio.timeout(WAIT_S):
        while True:
            if f"{figure} {healthy}\n" in await metrics_of(front):
                return
            await asyncio.sleep(0.05)


async def test_a_router_that_does_not_serve_is_left_alone_unless_none_does(front: Front) -> None:
    try:
        await front.hosts[0].set_ready(False)
        await health_told(front, 1)
        for _ in range(4):
            await messages_of(front.generate())
        assert front.told() == [0, 4]
        await front.hosts[1].set_ready(False)
        await health_told(front, 0)
        assert await messages_of(front.generate()) == ["0", "1"]
    finally:
        for host in front.hosts:
            await host.set_ready(True)
        await health_told(front, 2)


async def test_a_proxy_that_is_told_to_stop_lets_streams_end_and_sends_others_away(
    tmp_path: Path,
) -> None:
    async with front_in(tmp_path) as front:
        for router in front.routers:
            router.may_go_on.clear()
        call = front.generate()
        assert (await call.read()).request_id == "0"
        *_, script = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
        drain = re.sub(r"sleep \d+", "", script.replace("127.0.0.1", front.host))
        done = await asyncio.create_subprocess_exec(
            "bash", "-c", drain, stdout=asyncio.subprocess.PIPE
        )
        assert (await done.communicate())[0].startswith(b"HTTP/1.1 200")
        for router in front.routers:
            router.may_go_on.set()
        assert await messages_of(call) == ["1"]
        assert await messages_of(front.generate()) == ["0", "1"]
        figure = 'envoy_http_downstream_cx_drain_close{envoy_http_conn_manager_prefix="clients"}'
        assert f"{figure} 0\n" not in await metrics_of(front)
        assert figure in await metrics_of(front)
