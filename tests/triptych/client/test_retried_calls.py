"""Both clients against servers that fail, over real sockets."""

import asyncio
import itertools
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial

import pytest

import triptych
from triptych import AsyncClient, Client
from triptych.client import asynchronous, blocking
from triptych.client.retry import Tries

METHODS = [
    ("generate", ("hello",)),
    ("stream", ("hello",)),
    ("tokenize", ("hello",)),
    ("detokenize", ([104, 105],)),
    ("models", ()),
    ("load", ()),
]
all_methods = pytest.mark.parametrize(
    ("method", "arguments"), METHODS, ids=[name for name, _ in METHODS]
)


@pytest.fixture
def second_a_look(monkeypatch):
    """A clock that has gone on by a second whenever a client looks at it."""
    for client in (blocking, asynchronous):
        clock = itertools.count().__next__
        monkeypatch.setattr(client, "Tries", partial(Tries, clock=clock))


@all_methods
@pytest.mark.usefixtures("short_pauses")
def test_what_was_unavailable_is_asked_again_until_it_is_answered(server, call, method, arguments):
    undisturbed = call(server.address, method, *arguments)
    server.generation.heard.clear()
    server.generation.away = 3

    assert call(server.address, method, *arguments) == undisturbed
    assert len(server.generation.heard) == 4


@pytest.mark.usefixtures("short_pauses")
def test_what_a_stopping_server_has_not_taken_in_is_asked_again(server, call):
    server.generation.stopping = 2

    assert call(server.address, "generate", "hello").text == "Once upon a time"
    assert len(server.generation.heard) == 3


def test_a_server_that_only_stops_is_told_as_one_that_is_away(server, call):
    server.generation.stopping = 1

    with pytest.raises(triptych.Unavailable, match="stopping"):
        call(server.address, "generate", "hello", retry_s=0)


def test_a_call_that_its_own_client_ended_is_not_made_again(server):
    server.generation.stuck = 1
    client = Client(server.address)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.generate, "hello")
        assert server.generation.waiting.wait(10)
        client.close()

        with pytest.raises(triptych.Cancelled):
            answer.result(10)
    assert len(server.generation.heard) == 1


@all_methods
def test_without_time_to_retry_it_is_asked_once(server, call, method, arguments):
    server.generation.away = 1

    with pytest.raises(triptych.Unavailable) as caught:
        call(server.address, method, *arguments, retry_s=0)

    assert (caught.value.tries, len(server.generation.heard)) == (1, 1)
    assert not caught.value.begun


@pytest.mark.usefixtures("short_pauses")
def test_the_same_request_is_sent_each_time(server, call):
    server.generation.away = 1

    call(server.address, "generate", "hello", request_id="mine", seed=7)

    first, second = server.generation.heard
    assert first == second
    assert (first.text, first.request_id, first.sampling.seed) == ("hello", "mine", 7)


@all_methods
@pytest.mark.usefixtures("short_pauses")
def test_a_connection_that_breaks_before_the_first_message_is_made_again(
    server, wire, call, method, arguments
):
    server.generation.stuck = 1

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call, wire.address, method, *arguments)
        assert server.generation.waiting.wait(10)
        wire.cut()

        assert answer.result(20) == call(server.address, method, *arguments)


@pytest.mark.usefixtures("short_pauses", "second_a_look")
def test_in_the_end_the_last_failure_is_told_with_the_number_of_tries(server, call):
    server.generation.away = 1000

    with pytest.raises(triptych.Unavailable, match=r"^the tokenizer is away$") as caught:
        call(server.address, "generate", "hello", retry_s=5)

    assert caught.value.reason == "UNAVAILABLE"
    assert caught.value.tries == len(server.generation.heard) == 6


@pytest.mark.usefixtures("short_pauses")
def test_another_failure_after_a_retry_is_told_with_the_number_of_tries(server, call):
    server.generation.away = 2

    with pytest.raises(triptych.InvalidRequest) as caught:
        call(server.address, "stream", "invalid")

    assert caught.value.tries == 3


@pytest.mark.parametrize("prompt", ["invalid", "overloaded", "crashing"])
def test_no_other_failure_is_retried(server, call, prompt):
    with pytest.raises(triptych.TriptychError) as caught:
        call(server.address, "generate", prompt)

    assert (caught.value.tries, len(server.generation.heard)) == (1, 1)


@pytest.mark.usefixtures("short_pauses")
def test_after_the_first_message_of_a_stream_nothing_is_retried(server):
    server.generation.away = 1
    with Client(server.address) as client:
        stream = client.stream("breaking")
        assert next(stream).text == "Once "

        with pytest.raises(triptych.Unavailable, match="the model is away") as caught:
            next(stream)

    assert caught.value.tries == len(server.generation.heard) == 2
    assert caught.value.begun


@pytest.mark.usefixtures("short_pauses")
async def test_after_the_first_message_of_an_asyncio_stream_nothing_is_retried(server):
    server.generation.away = 1
    async with AsyncClient(server.address) as client, aclosing(client.stream("breaking")) as stream:
        assert (await anext(stream)).text == "Once "

        with pytest.raises(triptych.Unavailable, match="the model is away") as caught:
            await anext(stream)

    assert caught.value.tries == len(server.generation.heard) == 2


def test_a_connection_that_breaks_in_a_stream_is_told(server, wire):
    with Client(wire.address) as client:
        stream = client.stream("endless")
        next(stream)
        wire.cut()

        with pytest.raises(triptych.Unavailable):
            next(stream)

    assert len(server.generation.heard) == 1


def test_a_server_that_comes_up_later_is_found(serve_at, call):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    seen = []

    def start(error, pause_s):
        if not seen:
            serve_at(address)
        seen.append((error.tries, error.reason, 0 < pause_s <= 1))

    assert call(address, "generate", "hello", on_retry=start).text == "Once upon a time"
    assert seen == [(number, "", True) for number in range(1, len(seen) + 1)]


def test_the_timeout_spans_all_tries(nobody, call):
    with pytest.raises(triptych.DeadlineExceeded) as caught:
        call(nobody, "generate", "hello", timeout=0.3)

    assert caught.value.tries > 1
    assert caught.value.address == nobody
    assert isinstance(caught.value.__cause__, triptych.Unavailable)


@pytest.mark.usefixtures("short_pauses", "second_a_look")
def test_a_try_gets_what_the_ones_before_have_left_of_the_timeout(server, call):
    server.generation.away = 3

    call(server.address, "generate", "hello", timeout=100, retry_s=60)

    assert server.generation.remaining_s == sorted(server.generation.remaining_s, reverse=True)
    assert server.generation.remaining_s[0] <= 100
    assert server.generation.remaining_s[3] <= 100 - 3


def test_a_server_that_never_answers_ends_with_the_timeout_after_one_try(server, call):
    server.generation.stuck = 1

    with pytest.raises(triptych.DeadlineExceeded) as caught:
        call(server.address, "stream", "hello", timeout=0.2)

    assert (caught.value.tries, len(server.generation.heard)) == (1, 1)


@pytest.mark.usefixtures("short_pauses")
def test_threads_that_share_a_client_retry_each_for_itself(server):
    server.generation.away = 6
    with Client(server.address) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(client.generate, ["hello"] * 4))

    assert [one.text for one in answers] == ["Once upon a time"] * 4
    assert len(server.generation.heard) == 10


@pytest.mark.usefixtures("long_pauses")
def test_closing_the_client_ends_a_pause():
    pausing = threading.Event()
    client = Client("127.0.0.1:9", on_retry=lambda *_: pausing.set())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.generate, "hello", retry_s=2000)
        assert pausing.wait(10)
        client.close()

        with pytest.raises(triptych.Cancelled, match="closed"):
            answer.result(10)


@pytest.mark.usefixtures("long_pauses")
async def test_closing_the_asyncio_client_ends_a_pause():
    pausing = asyncio.Event()
    client = AsyncClient("127.0.0.1:9", on_retry=lambda *_: pausing.set())
    answer = asyncio.create_task(client.generate("hello", retry_s=2000))
    await pausing.wait()
    await client.close()

    with pytest.raises(triptych.Cancelled, match="closed"):
        await answer


@pytest.mark.usefixtures("long_pauses")
def test_ctrl_c_ends_a_pause(nobody):
    def interrupt_soon(*_):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

    with Client(nobody, on_retry=interrupt_soon) as client, pytest.raises(KeyboardInterrupt):
        client.generate("hello", retry_s=2000)


@pytest.mark.usefixtures("long_pauses")
async def test_cancelling_the_task_ends_a_pause(nobody):
    pausing = asyncio.Event()
    async with AsyncClient(nobody, on_retry=lambda *_: pausing.set()) as client:
        answer = asyncio.create_task(client.generate("hello", retry_s=2000))
        await pausing.wait()
        answer.cancel()

        with pytest.raises(asyncio.CancelledError):
            await answer


@all_methods
def test_a_reply_that_cannot_be_decoded_is_an_internal_error(junk, call, method, arguments):
    with pytest.raises(triptych.InternalError):
        call(junk, method, *arguments)
