"""What a command says while it waits for a server."""

import sys

import grpc
import pytest

from triptych import Client, Unavailable
from triptych.commands import retry_notice


def test_on_a_terminal_it_is_said_once_a_call(nobody, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Client(nobody, on_retry=retry_notice.show) as client:
        for _ in range(2):
            with pytest.raises(Unavailable) as caught:
                client.models(retry_s=0.2)

    assert caught.value.tries > 2
    assert capsys.readouterr().err == f"triptych: {nobody}: nothing answers yet; trying again\n" * 2


def test_the_words_of_a_server_are_passed_on(server, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    server.generation.away = 1

    with Client(server.address, on_retry=retry_notice.show) as client:
        client.models()

    told = f"triptych: {server.address}: the tokenizer is away; trying again\n"
    assert capsys.readouterr().err == told


def test_elsewhere_nothing_is_said(capsys):
    error = Unavailable("away", address="a:1", status=grpc.StatusCode.UNAVAILABLE)

    retry_notice.show(error, 0.1)

    assert capsys.readouterr().err == ""
