"""A router that keeps up hears of each step; one that does not hears of several at once."""

from __future__ import annotations

import asyncio

from support.tiny_tokenizers import byte_level

from detokenizer_svc.decoder import Vocabulary
from detokenizer_svc.pending_delta import MOST_POSITIONS
from detokenizer_svc.request import Request
from detokenizer_svc.watch_stream import DeltaSender
from protos import detokenizer_pb2

SPELLING = Vocabulary(byte_level())


def request(outbox: DeltaSender, handle: int = 1, candidates: int = 1) -> Request:
    register = detokenizer_pb2.Register(handle=handle, attempt=3, candidates=candidates)
    return Request(register, SPELLING, outbox)


def step(subject: Request, *indexes: int) -> None:
    """Give the candidates one token each."""
    for index in indexes:
        candidate = subject.candidates[index]
        candidate.add_row(candidate.expected, 9, 0, 0.0, ())
        subject.audience.touch(subject, candidate)


async def test_a_step_is_one_message() -> None:
    outbox = DeltaSender(SPELLING.piece)
    subject = request(outbox, candidates=2)
    for position in range(2):
        step(subject, 0, 1)
        deltas = (await outbox.take()).text.deltas
        assert [(d.handle, d.attempt, d.candidate, d.position) for d in deltas] == [
            (1, 3, 0, position),
            (1, 3, 1, position),
        ]


async def test_steps_that_were_not_taken_come_as_one() -> None:
    outbox = DeltaSender(SPELLING.piece)
    subject = request(outbox)
    for _ in range(5):
        step(subject, 0)
    (delta,) = (await outbox.take()).text.deltas
    assert (delta.position, list(delta.token_ids)) == (0, [9] * 5)


async def test_take_waits_until_there_is_something() -> None:
    outbox = DeltaSender(SPELLING.piece)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    step(request(outbox), 0)
    assert len((await taking).text.deltas) == 1


async def test_what_is_said_comes_before_text() -> None:
    outbox = DeltaSender(SPELLING.piece)
    step(request(outbox), 0)
    for handle in (1, 2):
        registered = detokenizer_pb2.Registered(handle=handle)
        outbox.send(detokenizer_pb2.WatchResponse(registered=registered))
    kinds = [await outbox.take() for _ in range(3)]
    assert [kind.registered.handle for kind in kinds] == [1, 2, 0]
    assert kinds[2].WhichOneof("message") == "text"


async def test_what_is_forgotten_is_not_sent() -> None:
    outbox = DeltaSender(SPELLING.piece)
    first, second = request(outbox, handle=1), request(outbox, handle=2)
    step(first, 0)
    step(second, 0)
    outbox.forget(first)
    assert [delta.handle for delta in (await outbox.take()).text.deltas] == [2]


async def test_a_long_backlog_comes_in_several_messages() -> None:
    outbox = DeltaSender(SPELLING.piece)
    subject = request(outbox, candidates=8)
    for index in range(8):
        for _ in range(MOST_POSITIONS + 1):
            step(subject, index)
    received: dict[int, int] = dict.fromkeys(range(8), 0)
    messages = 0
    while any(count <= MOST_POSITIONS for count in received.values()):
        messages += 1
        for delta in (await outbox.take()).text.deltas:
            assert delta.position == received[delta.candidate]
            received[delta.candidate] += len(delta.token_ids)
    assert messages > 8
    assert set(received.values()) == {MOST_POSITIONS + 1}
