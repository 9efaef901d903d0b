"""`triptych chat` with its turns piped in."""

import os
import pty
import sys
from contextlib import suppress

import pytest
from typer.testing import CliRunner

from triptych.cli import app

TEXT = "Once upon a time"
FILTERS = ("--top-p", "0.5", "--top-k", "4")


def chat(server, *arguments, said):
    return CliRunner().invoke(app, ["chat", "--address", server.address, *arguments], input=said)


def asked(server):
    """The conversations that were sent."""
    return [
        [(one.role, one.content) for one in request.chat.messages]
        for request in server.generation.requests
        if request.DESCRIPTOR.name == "GenerateRequest"
    ]


def test_every_turn_carries_what_was_said_before(server):
    ended = chat(server, said="hi\n\nmore\n")

    assert (ended.exit_code, ended.stdout) == (0, f"{TEXT}\n{TEXT}\n")
    assert asked(server) == [
        [("user", "hi")],
        [("user", "hi"), ("assistant", TEXT), ("user", "more")],
    ]


def test_reset_forgets_all_but_the_system_message(server):
    chat(server, "--system", "be brief", said="hi\n/reset\nagain\n")

    assert asked(server)[1] == [("system", "be brief"), ("user", "again")]


@pytest.mark.parametrize("farewell", ["/bye", "/exit", "/quit"])
def test_ends_when_told(server, farewell):
    ended = chat(server, said=f"hi\n{farewell}\nmore\n")

    assert ended.exit_code == 0
    assert len(asked(server)) == 1


def test_options_reach_the_server(server):
    chat(server, "--max-tokens", "5", "--temperature", "0", "--seed", "1", *FILTERS, said="hi\n")

    (request,) = server.generation.requests
    assert (request.stop.max_tokens, request.sampling.temperature) == (5, 0.0)
    assert (request.sampling.seed, request.sampling.top_k) == (1, 4)
    assert request.sampling.top_p == 0.5


def test_what_the_checkpoint_recommends_holds_where_no_option_is_given(server):
    server.generation.model.generation_defaults.temperature = 0.5
    server.generation.model.generation_defaults.top_k = 20

    chat(server, "--top-k", "3", said="hi\n")
    chat(server, "--no-checkpoint-defaults", said="hi\n")

    chosen, own = (request.sampling for request in server.generation.requests)
    assert (chosen.temperature, chosen.top_k) == (0.5, 3)
    assert own.ListFields() == []


def test_a_command_that_is_none_is_refused_and_not_sent(server):
    ended = chat(server, said="/rest\nhi\n")

    assert ended.exit_code == 1
    assert "unknown command /rest; see /help" in ended.stderr
    assert asked(server) == []


def test_a_space_before_a_slash_sends_the_line(server):
    chat(server, said=" /etc/fstab\n")

    assert asked(server) == [[("user", "/etc/fstab")]]


def test_help_lists_the_commands(server):
    ended = chat(server, said="/help\n")

    assert all(command in ended.stderr for command in ("/reset", "/bye", "Ctrl-C"))


def test_several_lines_are_one_turn(server):
    chat(server, said='"""one\ntwo"""\nthree\\\nfour\n')

    assert [said[-1] for said in asked(server)] == [("user", "one\ntwo"), ("user", "three\nfour")]


def test_a_full_context_loses_its_oldest_turns_and_says_so(server):
    server.generation.prompt_tokens = 500  # of 512
    said = "".join(f"{letter * 100}\n" for letter in "abcd")

    ended = chat(server, "--system", "be brief", "--max-tokens", "100", said=said)

    assert ended.exit_code == 0
    # The stand-in counts a letter as a token.
    last = [(role, content[:1]) for role, content in asked(server)[-1]]
    assert last == [
        ("system", "b"),
        *[("user", "b"), ("assistant", "O")],
        *[("user", "c"), ("assistant", "O")],
        ("user", "d"),
    ]
    assert "the context is full; the oldest turn is forgotten" in ended.stderr


def test_a_line_that_is_not_utf8_is_told_with_its_number(server):
    ended = chat(server, said=b"hi\n\xff\n")

    assert ended.exit_code == 1
    assert ended.stderr == "triptych: line 2 of stdin: not UTF-8 at byte 1\n"


class Terminal:
    """`triptych chat` at a terminal of its own."""

    def __init__(self, *arguments):
        self.pid, self.end = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
            command = [sys.executable, "-m", "triptych", "chat", *arguments]
            os.execve(sys.executable, command, environment)
        self.shown = b""

    def read_until(self, text, times=1):
        while self.shown.count(text) < times:
            try:
                self.shown += os.read(self.end, 4096)
            except OSError:  # it has ended
                break
        assert self.shown.count(text) >= times, self.shown

    def type(self, text):
        os.write(self.end, text)

    def close(self):
        os.close(self.end)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_has_line_editing_history_and_a_greeting(server):
    server.generation.model.generation_defaults.temperature = 0.5
    terminal = Terminal("--address", server.address, "--system", "be brief", "--top-k", "4")
    keys = [b"slip\x15clean\r", b"\x1b[A\x01X\r", b"/nothing\r", b"/reset\r"]
    for turn, typed in enumerate(keys, start=1):
        terminal.read_until(b"you> ", times=turn)
        terminal.type(typed)
    terminal.read_until(b"you> ", times=len(keys) + 1)
    terminal.type(b"\x04")
    with suppress(AssertionError):
        terminal.read_until(b"nothing more")

    assert terminal.close() == 0
    assert [said[-1][1] for said in asked(server)] == ["clean", "Xclean"]
    assert b"context of 512 tokens" in terminal.shown
    assert b"sampling: temperature 0.5 (checkpoint), top k 4" in terminal.shown
    assert b"system: be brief" in terminal.shown
    assert b"unknown command /nothing" in terminal.shown
    assert b"the conversation is forgotten" in terminal.shown


def test_nobody_there_is_said_before_the_first_turn(nobody):
    ended = CliRunner().invoke(app, ["chat", "--address", nobody, "--retry-s", "0"], input="hi\n")

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")


def test_a_server_that_is_away_for_a_moment_is_asked_again(server):
    server.generation.away = 1

    ended = chat(server, said="hi\n")

    assert (ended.exit_code, ended.stdout) == (0, f"{TEXT}\n")
    assert asked(server) == [[("user", "hi")]]
