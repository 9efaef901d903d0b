"""`triptych chat` with its turns piped in."""

import pytest
from typer.testing import CliRunner

from triptych.cli import app

TEXT = "Once upon a time"


def chat(server, *arguments, said):
    return CliRunner().invoke(app, ["chat", "--address", server.address, *arguments], input=said)


def asked(server):
    """The conversations that were sent."""
    return [
        [(one.role, one.content) for one in request.chat.messages]
        for request in server.generation.requests
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


@pytest.mark.parametrize("farewell", ["/exit", "/quit"])
def test_ends_when_told(server, farewell):
    ended = chat(server, said=f"hi\n{farewell}\nmore\n")

    assert ended.exit_code == 0
    assert len(asked(server)) == 1


def test_options_reach_the_server(server):
    chat(server, "--max-tokens", "5", "--temperature", "0", "--seed", "1", said="hi\n")

    (request,) = server.generation.requests
    assert (request.stop.max_tokens, request.sampling.temperature) == (5, 0.0)
    assert request.sampling.seed == 1


def test_nobody_there_is_said_before_the_first_turn(nobody):
    ended = CliRunner().invoke(app, ["chat", "--address", nobody, "--retry-s", "0"], input="hi\n")

    assert ended.exit_code == 1
    assert ended.stderr.startswith(f"triptych: nothing answers at {nobody}")


def test_a_server_that_is_away_for_a_moment_is_asked_again(server):
    server.generation.away = 1

    ended = chat(server, said="hi\n")

    assert (ended.exit_code, ended.stdout) == (0, f"{TEXT}\n")
    assert asked(server) == [[("user", "hi")]]
