"""What has to hold of a deployment that runs under Compose; each check tells what it saw.

A check that does not hold raises `Broken`, or what its means raise.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from tests.compose.commands import succeeds
from tests.compose.project import IMAGE, REPLICA, Project
from triptych.client import Client

_USER = "10001"
_SERVICES = ("tokenizer", *REPLICA)
_GRACE_S = 15.0
_SHARED_MEMORY = Path("/dev/shm")

_LINK = """
import grpc
from protos import service_pb2, service_pb2_grpc
with grpc.insecure_channel("unix:/run/triptych/detokenizer.sock") as channel:
    stub = service_pb2_grpc.IntrospectionServiceStub(channel)
    link, = stub.Describe(service_pb2.DescribeRequest(), timeout=10).links
    print(service_pb2.Transport.Name(link.transport))
"""
_LEVEL = """
from kernels.c.library import load_library
library = load_library().library
print(library.level if library else "none")
"""
_STATUS = """
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/1/status").read_text().splitlines())
print(status["Uid"].split()[0], int(status["CapEff"], 16), int(status["NoNewPrivs"]))
"""
_WRITE = "import sys; open(sys.argv[1], 'w')"
_PLACES = ("/here", "/opt/triptych/here", "/model/here", "/models/demo/here", "/etc/here")
_KILL_WORKER = """
import os, signal, time
from pathlib import Path

def family():
    return {int(path.name): (path / "stat").read_text().rpartition(") ")[2].split()
            for path in Path("/proc").glob("[0-9]*")}

def workers():
    return {pid for pid, stat in family().items() if stat[1] == service
            and b"tokenizer_svc.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}

service = Path("/proc/1/task/1/children").read_text().strip()
before = workers()
os.kill(min(before), signal.SIGKILL)
deadline = time.monotonic() + 30
while min(before) in family() or len(workers()) < len(before):
    if time.monotonic() > deadline:
        raise SystemExit(f"not replaced: {family()}")
    time.sleep(0.05)
print(len(before), sum(stat[0] == "Z" for stat in family().values()))
"""


class Broken(Exception):
    """Something is not as it should be."""


def stream(project: Project) -> str:
    """A completion streams to a client on this machine, and to one in the router's container."""
    with Client(project.address()) as client:
        deltas = list(client.stream("def read_file(path):", max_tokens=32, seed=1))
    text = "".join(part.text for delta in deltas for part in delta.candidates)
    if len(deltas) < 2 or not text.strip():
        raise Broken(f"{len(deltas)} messages with the text {text!r}")
    command = ("triptych", "generate", "--address", "127.0.0.1:50051", "--max-tokens", "32")
    inside = project.execute("router", *command, "--seed", "1", "def read_file(path):")
    if inside.strip() != text.strip():
        raise Broken(f"{inside!r} from inside, {text!r} from outside")
    return f"{len(deltas)} messages with {len(text)} characters"


def shared_memory(project: Project) -> str:
    """Bulk data travels in shared memory on every link."""
    seen = json.loads(project.execute("router", "triptych", "status", "--json"))
    links = {f"router-{one['name']}": one["transport"] for one in seen["services"][1:]}
    links["detokenizer-model"] = project.python("detokenizer", _LINK)
    wrong = {name: how for name, how in links.items() if "shared" not in str(how).lower()}
    if wrong or len(links) < len(_SERVICES) + 1:
        raise Broken(f"links: {links}")
    files = project.execute("router", "ls", "/dev/shm").split()
    kinds = sorted(name.split("-")[1] for name in files)
    if kinds != ["arena", "bell", "ring"]:
        raise Broken(f"files in shared memory: {files}")
    return f"on {len(links)} links; files: {', '.join(kinds)}"


def confined(project: Project) -> str:
    """No container runs as root, has a capability, or can write where it should not."""
    services = project.services()
    for service in services:
        said = project.python(service, _STATUS)
        if said != f"{_USER} 0 1":
            raise Broken(f"{service}: user, capabilities and no-new-privileges are {said}")
        for place in _PLACES:
            if _writable(project, service, place):
                raise Broken(f"{service} can write to {place}")
        if not _writable(project, service, "/tmp/here"):
            raise Broken(f"{service} cannot write to /tmp")
    return f"user {_USER}, no capabilities, read-only root: {', '.join(services)}"


def _writable(project: Project, service: str, place: str) -> bool:
    command = ("exec", project.container(service), "python", "-c", _WRITE, place)
    return succeeds((project.engine.docker, *command), project.engine.environment)


def workers_replaced(project: Project) -> str:
    """A tokenizer's worker that dies is replaced, and is not left a zombie."""
    workers, zombies = project.python("tokenizer", _KILL_WORKER).split()
    if zombies != "0":
        raise Broken(f"{zombies} zombies")
    return f"{workers} workers again, no zombie"


def apart(one: Project, other: Project) -> str:
    """Two deployments on one machine do not meet."""
    told = [_model_files(project) for project in (one, other)]
    if told[0] & told[1]:
        raise Broken(f"both have {told[0] & told[1]}")
    for project in (one, other):
        stream(project)
    return f"{one.address()} and {other.address()}, each with memory of its own"


def _model_files(project: Project) -> set[str]:
    return set(project.execute("model", "ls", "/dev/shm").split())


def stopped_well(project: Project) -> str:
    """Told to stop, every service ends in good order and in time."""
    services = project.services()
    began = time.monotonic()
    project.compose("stop")
    took_s = time.monotonic() - began
    codes = {service: project.inspect(service)["State"]["ExitCode"] for service in services}
    if any(codes.values()) or took_s > _GRACE_S:
        raise Broken(f"after {took_s:.1f} s the exit codes are {codes}")
    return f"{len(services)} services in {took_s:.1f} s"


def stopped_well_as_process_1(project: Project) -> str:
    """A service that is process 1 starts from the image alone, and stops as told."""
    engine = project.engine
    settings = {"LISTEN": "unix:/tmp/tokenizer.sock", "MODEL": "/models/demo"}
    options = [f"--env=TRIPTYCH_TOKENIZER_{name}={value}" for name, value in settings.items()]
    options += ["--read-only", "--tmpfs=/tmp", "--network=none", "--cap-drop=ALL"]
    container = engine.run("run", "--detach", *options, IMAGE, "tokenizer_svc")
    try:
        check = ("python", "-m", "chassis.healthcheck", "--patient", "/tmp/health")
        engine.run("exec", container, *check, settings["LISTEN"])
        pid = engine.run("exec", container, "cat", "/proc/1/cmdline").replace("\0", " ").strip()
        engine.run("stop", "--time", str(round(_GRACE_S)), container)
        code = engine.run("container", "inspect", "--format", "{{.State.ExitCode}}", container)
    finally:
        engine.run("rm", "--force", container)
    if code != "0":
        raise Broken(f"{pid} ended with exit code {code}")
    return f"{pid}: exit code 0"


def without_avx512(project: Project) -> str:
    """The model runs with what every x86-64 CPU of the last ten years has."""
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    capability, level = project.python("model", code), project.python("model", _LEVEL)
    if "512" in capability or level != "avx2":
        raise Broken(f"PyTorch computes with {capability}, our operations with {level}")
    return f"PyTorch computes with {capability}, our operations with {level}; {stream(project)}"


def compiled(project: Project) -> str:
    """The image has the operations in C, at the level of this CPU."""
    level = project.python("model", _LEVEL)
    if level == "none":
        raise Broken("the operations in C were not built")
    return f"operations in C, {level}"


def nothing_left(projects: Iterable[Project]) -> str:
    """After `down`, the engine has nothing of the deployments any more, nor has this machine."""
    left = [name for project in projects for name in project.left()]
    left += [str(path) for path in _SHARED_MEMORY.iterdir() if _owner(path) == int(_USER)]
    if left:
        raise Broken(f"left behind: {left}")
    return "no container, network, volume or file in shared memory"


def _owner(path: Path) -> int | None:
    """Who owns a file, which may go at any moment."""
    try:
        return path.lstat().st_uid
    except FileNotFoundError:
        return None
