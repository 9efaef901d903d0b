"""`triptych generate`, against a server of the tests' own."""

import json
import signal
import subprocess
import sys

from typer.testing import CliRunner

from triptych.cli import app

TEXT = "Once upon a time"


def generate(*arguments, **options):
    return CliRunner().invoke(app, ["generate", *arguments], **options)


def test_streams_the_text_and_nothing_else_to_stdout(server):
    ended = generate("--address", server.address, "hello")

    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, f"{TEXT}\n", "")
    assert server.generation.requests[0].text == "hello"


def test_options_reach_the_server(server):
    options = ["--max-tokens", "9", "--temperature", "0.5", "--seed", "3", "--top-p", "0.9"]
    options += ["--top-k", "4", "--stop", "a", "--stop", "b", "--model", "m"]

    assert generate("--address", server.address, *options, "hello").exit_code == 0

    (request,) = server.generation.requests
    assert (request.stop.max_tokens, list(request.stop.strings)) == (9, ["a", "b"])
    assert (request.sampling.temperature, request.sampling.seed) == (0.5, 3)
    assert (request.sampling.top_k, round(request.sampling.top_p, 3)) == (4, 0.9)
    assert request.model == "m"


def test_a_dash_reads_the_prompt_from_stdin_unchanged(server):
    generate("--address", server.address, "-", input="line one\nline two\n")

    assert server.generation.requests[0].text == "line one\nline two\n"


def test_json_is_one_object_on_one_line(server):
    ended = generate("--address", server.address, "--json", "hello")

    assert ended.stdout.count("\n") == 1
    answer = json.loads(ended.stdout)
    assert answer.pop("ttft_ms") > 0
    assert answer.pop("tokens_per_s") > 0
    assert answer == {
        "request_id": "made",
        "text": TEXT,
        "token_ids": [0, 1, 2, 3],
        "finish_reason": "stop",
        "matched_stop": None,
        "usage": {"prompt_tokens": 7, "completion_tokens": 4, "cached_prompt_tokens": 1},
    }


def test_stats_go_to_stderr(server):
    ended = generate("--address", server.address, "--stats", "hello")

    assert ended.stdout == f"{TEXT}\n"
    assert ended.stderr.startswith("7 prompt tokens, 4 output tokens, TTFT ")
    assert ended.stderr.endswith(" tokens/s\n")


def test_what_the_checkpoint_recommends_holds_where_no_option_is_given(server):
    server.generation.model.generation_defaults.temperature = 0.5
    server.generation.model.generation_defaults.top_k = 20
    server.generation.model.generation_defaults.repetition_penalty = 1.25

    generate("--address", server.address, "--top-k", "3", "hello")
    generate("--address", server.address, "--no-checkpoint-defaults", "hello")

    chosen, own = (request.sampling for request in server.generation.requests)
    assert (chosen.temperature, chosen.top_k, chosen.repetition_penalty) == (0.5, 3, 1.25)
    assert own.ListFields() == []


def test_without_a_limit_the_answer_may_fill_the_context(server):
    generate("--address", server.address, "hello")

    assert not server.generation.requests[0].stop.HasField("max_tokens")


def test_the_defaults_and_the_answer_share_the_timeout(server):
    server.generation.stuck = 1

    ended = generate("--address", server.address, "--timeout", "0.2", "hello")

    assert ended.exit_code == 1
    assert ended.stderr.endswith("in time\n")
    assert server.generation.requests == []


def test_a_stream_that_the_server_cuts_is_not_told_as_a_server_that_is_not_there(server):
    ended = generate("--address", server.address, "stopping")

    assert (ended.exit_code, ended.stdout) == (1, "Once \n")
    assert ended.stderr == (
        f"triptych: the server at {server.address} stopped while it answered; "
        "the answer is incomplete\n"
    )


def test_stdin_that_is_not_utf8_is_one_line_with_the_place(server):
    ended = generate("--address", server.address, "-", input=b"ab\xff")

    assert (ended.exit_code, ended.stderr) == (1, "triptych: stdin: not UTF-8 at byte 3\n")


def test_a_prompt_above_the_message_limit_is_told_with_both_sizes(server):
    ended = generate("--address", server.address, "-", input="a" * (33 << 20))

    assert ended.exit_code == 1
    assert "33.0 MiB" in ended.stderr
    assert "32.0 MiB" in ended.stderr


def test_a_reply_that_is_no_message_is_one_line(junk):
    ended = generate("--address", junk, "hello")

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: what answers at {junk} is no Triptych server")


def test_nobody_there_is_one_line_with_the_address_and_the_remedy(nobody):
    ended = generate("--address", nobody, "--retry-s", "0", "hello")

    assert ended.exit_code == 1
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")
    assert "triptych serve --model" in ended.stderr


def test_a_server_that_is_away_for_a_moment_is_asked_again(server):
    server.generation.away = 1

    ended = generate("--address", server.address, "hello")

    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, f"{TEXT}\n", "")


def test_a_timeout_while_nothing_answers_names_the_remedy(nobody):
    ended = generate("--address", nobody, "--timeout", "0.2", "hello")

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")


def test_a_refused_request_is_one_line_with_the_field(server):
    ended = generate("--address", server.address, "invalid")

    assert ended.exit_code == 1
    assert ended.stderr == (
        "triptych: the request was refused: sampling.top_p: must be in (0, 1]\n"
    )


def test_an_overloaded_server_is_one_line_with_the_wait(server):
    ended = generate("--address", server.address, "overloaded")

    assert ended.exit_code == 1
    assert "the queue is full (OVERLOADED); try again in 2.5 s" in ended.stderr


def test_a_value_that_cannot_be_sent_is_one_line(server):
    ended = generate("--address", server.address, "--seed", str(2**64), "hello")

    assert ended.exit_code == 1
    assert ended.stderr.startswith("triptych: seed: ")
    assert ended.stderr.count("\n") == 1


def test_the_timeout_is_one_line(server):
    ended = generate("--address", server.address, "--timeout", "0.2", "endless")

    assert ended.exit_code == 1
    # A slow machine may have begun no answer by then.
    begun = f"triptych: the timeout has passed; the answer of {server.address} is incomplete\n"
    assert ended.stderr in (begun, f"triptych: no answer from {server.address} in time\n")


def test_ctrl_c_cancels_the_request_and_ends_with_130(server):
    command = [sys.executable, "-m", "triptych", "generate", "--address", server.address, "endless"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(5) == b"Once "
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)

    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert server.generation.cancelled.wait(10)


def test_output_that_cannot_be_written_is_one_line(server):
    command = [sys.executable, "-m", "triptych", "generate", "--address", server.address, "hello"]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

    assert ended.returncode != 0
    assert "triptych: cannot write the text: No space left on device" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_timeout_of_nothing_is_refused(server):
    assert generate("--address", server.address, "--timeout", "0", "hello").exit_code == 2
