"""The servers that are compared: how each is started, and what it speaks.

Invariant: all get the same cores, room for the same tokens, and no prefix cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bench.peers.servers.llama_cpp import LlamaCpp
from bench.peers.servers.vllm import Vllm
from bench.peers.workloads import CONTEXT, TINY, Workload

Speech = Literal["triptych", "llama.cpp", "vllm"]
_FEWEST_SEQUENCES = 32
_VLLM_SEQUENCES = 64
_VLLM_KV_GIB = 4


@dataclass(frozen=True)
class Server:
    """One column of the comparison.

    Attributes:
        name: in tables and on the command line.
        speech: its program and protocol.
        quantization: of the weights, in its own words; None: bf16.
    """

    name: str
    speech: Speech
    quantization: str | None = None


def taking_part(servers: Iterable[Server], workload: Workload) -> list[Server]:
    """Servers to run on a model: one bound by overhead gains nothing from small weights."""
    return [one for one in servers if not one.quantization or workload is not TINY]


@dataclass(frozen=True)
class Site:
    """Place of a server: folders, cores and port.

    Attributes:
        root: folder of the built peers.
        checkpoint: what it serves, in Hugging Face layout.
        cores: numbers of the cores it may use.
        sequences: the most that are sent at a time.
        port: on this machine, free.
    """

    root: Path
    checkpoint: Path
    cores: Sequence[int]
    sequences: int
    port: int

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit into the cache of every server but vLLM, which counts in GiB."""
        return CONTEXT * max(_FEWEST_SEQUENCES, self.sequences)


@dataclass(frozen=True)
class Launch:
    """Command and environment that start a server.

    Attributes:
        command: program and arguments.
        environment: to be set besides this process's own.
        ready_line: how the line on its output begins that says that it is ready; None: it is when
            `GET /health` is answered 200.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_line: str | None = None


SERVERS = {
    one.name: one
    for one in (
        Server("triptych", "triptych"),
        Server("vllm", "vllm"),
        Server("llama.cpp", "llama.cpp"),
        Server("triptych-int8", "triptych", "int8"),
        Server("llama.cpp-q8_0", "llama.cpp", "q8_0"),
        Server("triptych-int4", "triptych", "int4"),
        Server("llama.cpp-q4_0", "llama.cpp", "q4_0"),
        Server("triptych-w8a8", "triptych", "w8a8"),
    )
}


def launch(server: Server, site: Site) -> Launch:
    """Command and environment that start `server` at `site`.

    Raises:
        StageFailed: llama.cpp's file of the checkpoint cannot be made.
    """
    if server.speech == "triptych":
        return triptych(site, server.quantization)
    if server.speech == "vllm":
        return vllm(site)
    peer = LlamaCpp(site.root)
    return llama_cpp(site, peer.server, peer.gguf(site.checkpoint, server.quantization))


def triptych(site: Site, quantization: str | None) -> Launch:
    """Triptych as a user starts it, but for the size of its KV pool."""
    command = [sys.executable, "-m", "triptych", "serve", "--model", str(site.checkpoint)]
    command += ["--listen", f"127.0.0.1:{site.port}", "--metrics-listen", "off"]
    command += ["--device", "cpu", "--kv-tokens", str(site.kv_tokens), "--log-level", "warning"]
    if quantization is not None:
        command += ["--quantize", quantization]
    return Launch(tuple(command), ready_line="ready on ")


def llama_cpp(site: Site, program: Path, gguf: Path) -> Launch:
    """llama-server on one file."""
    command = [str(program), "--model", str(gguf), "--host", "127.0.0.1", "--port", str(site.port)]
    command += ["--ctx-size", str(site.kv_tokens), "--parallel", str(site.kv_tokens // CONTEXT)]
    command += ["--threads", str(len(site.cores)), "--flash-attn", "on", "--no-webui"]
    # Prompts are not kept in memory either: the option below is not part of `cache_prompt`.
    command += ["--cache-ram", "0"]
    return Launch(tuple(command))


def vllm(site: Site) -> Launch:
    """`vllm serve` by its defaults, but for the cores and the cache."""
    peer = Vllm(site.root)
    command = [str(peer.program), "serve", str(site.checkpoint), "--served-model-name", "bench"]
    command += ["--host", "127.0.0.1", "--port", str(site.port), "--dtype", "bfloat16"]
    command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", str(_VLLM_SEQUENCES)]
    command += ["--no-enable-prefix-caching", "--disable-uvicorn-access-log"]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": str(_VLLM_KV_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, site.cores)),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CACHE_ROOT": str(peer.cache),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Launch(tuple(command), environment)
