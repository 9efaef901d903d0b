"""How the servers are started: the same cores, room and no prefix cache for all."""

import itertools
from pathlib import Path

import pytest

from bench.peers.campaign import rotated
from bench.peers.servers import registry
from bench.peers.servers.registry import SERVERS, Site
from bench.peers.workloads import CONTEXT, DENSE, LONG_PROMPT_TOKENS, PREFILL, TINY, cells

SITE = Site(Path("/built"), Path("/checkpoints/dense"), [0, 1], 8, 4321)


def option(command, name):
    return command[command.index(name) + 1]


def test_triptych_and_llama_cpp_have_room_for_the_same_tokens():
    ours = registry.triptych(SITE, None).command
    theirs = registry.llama_cpp(SITE, Path("llama-server"), Path("dense.gguf")).command

    assert option(ours, "--kv-tokens") == option(theirs, "--ctx-size") == "32768"
    assert option(theirs, "--parallel") == "32"


def test_more_streams_than_usual_get_more_room():
    many = Site(SITE.root, SITE.checkpoint, [0, 1], 64, 4321)
    command = registry.llama_cpp(many, Path("llama-server"), Path("dense.gguf")).command

    assert option(command, "--parallel") == "64"
    assert option(command, "--ctx-size") == str(64 * CONTEXT)


def test_all_listen_where_the_load_is_sent():
    llama = registry.llama_cpp(SITE, Path("llama-server"), Path("dense.gguf"))

    assert option(registry.triptych(SITE, None).command, "--listen") == "127.0.0.1:4321"
    assert option(registry.vllm(SITE).command, "--port") == "4321"
    assert option(llama.command, "--port") == "4321"


def test_the_peers_get_all_cores_and_keep_no_prefixes():
    vllm = registry.vllm(SITE)
    llama = registry.llama_cpp(SITE, Path("llama-server"), Path("dense.gguf"))

    assert vllm.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    assert option(llama.command, "--threads") == "2"
    assert "--no-enable-prefix-caching" in vllm.command
    assert option(llama.command, "--cache-ram") == "0"


def test_only_a_quantised_triptych_is_told_to_quantise():
    assert "--quantize" not in registry.triptych(SITE, None).command
    assert option(registry.triptych(SITE, "int4").command, "--quantize") == "int4"


@pytest.mark.parametrize("count", [1, 3, 8])
def test_each_server_begins_a_round_and_none_takes_part_twice(count):
    everyone = list(SERVERS.values())[:count]

    orders = [rotated(everyone, number) for number in range(count)]

    assert {order[0].name for order in orders} == {one.name for one in everyone}
    assert all(sorted(order, key=everyone.index) == everyone for order in orders)


@pytest.mark.parametrize(
    ("workload", "quick"), list(itertools.product((DENSE, TINY), (False, True)))
)
def test_every_stream_of_a_cell_has_several_requests_that_fit_the_context(workload, quick):
    for cell in cells(workload, None, quick=quick):
        assert cell.requests >= 2 * cell.streams
        assert cell.long_prompts == (cell.name == PREFILL)
        # A server may count some tokens more than the tokenizer that cut the prompt.
        assert LONG_PROMPT_TOKENS + cell.output_tokens <= CONTEXT


def test_streams_of_the_command_line_replace_those_of_the_model():
    assert [cell.name for cell in cells(DENSE, [2, 4], quick=True)] == ["2", "4", PREFILL]
