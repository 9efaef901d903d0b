"""Frames reach a detokenizer or are remembered as gaps; nothing is lost and nothing waits."""

import asyncio
import fcntl
import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.memory.doorbell import Doorbell, Listener
from chassis.memory.ring import Ring
from chassis.memory.shared_file import SharedFile
from model_svc.serving.frame_stream import (
    FrameStream,
    InlineTransport,
    SharedTransport,
    transport_for,
)
from protos import memory_pb2, model_pb2
from protos.announcement import ANNOUNCEMENT_BYTES, read_announcements
from protos.token_frame import ALTERNATIVE, ROW, TokenFrame, frame_bytes, read_frame


def frame(*positions, handle=1, alternatives=0):
    rows = np.zeros(len(positions), dtype=ROW)
    rows["handle"], rows["attempt"], rows["position"] = handle, 1, positions
    rows["alternatives"] = alternatives
    others = np.zeros(len(positions) * alternatives, dtype=ALTERNATIVE)
    others["token"] = np.arange(len(others))
    return TokenFrame(rows, others)


@pytest.fixture
def ring(tmp_path):
    file = SharedFile.create("ring", 512, tmp_path)
    yield Ring(file)
    file.close()


@pytest.fixture(params=["shared", "inline"])
def room(request, ring):
    return SharedTransport(ring) if request.param == "shared" else InlineTransport(512)


def read(room, response):
    sent = response.frame
    if sent.WhichOneof("place") == "span":
        return read_frame(bytes(room._ring.view(sent.span)))
    return read_frame(sent.inline)


async def test_a_frame_arrives_whole(room):
    outlet = FrameStream(room)
    assert outlet.offer(frame(0, 1)) == 0

    response = await outlet.take()

    assert response.frame.sequence == 1
    assert read(room, response).rows["position"].tolist() == [0, 1]


async def test_a_frame_larger_than_the_room_comes_in_parts(room):
    outlet = FrameStream(room)
    left_out = outlet.offer(frame(*range(6), alternatives=2))
    parts = [await outlet.take() for _ in range(len(outlet._mailbox._messages))]

    assert left_out == 0
    assert len(parts) > 1
    read_parts = [read(room, part) for part in parts]
    assert [p for part in read_parts for p in part.rows["position"].tolist()] == list(range(6))
    assert [t for part in read_parts for t in part.alternatives["token"].tolist()] == list(
        range(12)
    )


async def test_rows_without_room_become_a_gap_once_room_is_back(room):
    outlet = FrameStream(room)
    left_out = sum(outlet.offer(frame(i, handle=i)) for i in range(30))
    assert left_out > 0
    sent = [await outlet.take() for _ in range(30 - left_out)]
    waiting = asyncio.ensure_future(outlet.take())
    await asyncio.sleep(0)
    assert not waiting.done(), "a gap was told before there was room to mend it"

    outlet.acknowledge(sent[-1].frame.sequence)
    gap = (await waiting).gap

    assert [missing.handle for missing in gap.requests] == list(range(30 - left_out, 30))
    assert outlet.offer(frame(29, handle=29)) == 0


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.data())
async def test_a_full_room_holds_a_frame_that_asks_to_be_acknowledged(sizes, data):
    room = InlineTransport(512)
    outlet = FrameStream(room)
    asked = acknowledged = 0
    for size in sizes:
        left_out = outlet.offer(frame(*range(size)))
        sent = [
            response.frame for response in outlet._mailbox._messages if response.HasField("frame")
        ]
        outlet._mailbox._messages.clear()
        asked = max([asked, *(one.sequence for one in sent if one.acknowledge)])
        assert not left_out or asked > acknowledged
        if asked > acknowledged and data.draw(st.booleans()):
            acknowledged = asked
            outlet.acknowledge(asked)


async def test_few_frames_ask_to_be_acknowledged():
    outlet = FrameStream(InlineTransport(1 << 20))
    for position in range(1000):
        outlet.offer(frame(position))

    assert sum(response.frame.acknowledge for response in outlet._mailbox._messages) == 1000 // 128


async def test_what_came_before_the_detokenizer_had_joined_becomes_a_gap(room):
    outlet = FrameStream()
    assert outlet.offer(frame(0, 1, handle=7)) == 2
    outlet.acknowledge(1)

    outlet.open(room)
    outlet.offer(frame(2, handle=7))

    gap, later = await outlet.take(), await outlet.take()
    assert [missing.handle for missing in gap.gap.requests] == [7]
    assert read(room, later).rows["position"].tolist() == [2]


def test_who_proves_that_it_sees_the_ring_gets_it(ring):
    proven = model_pb2.Join(proof=memory_pb2.SharedProof(nonce=ring.file.nonce))
    blind = model_pb2.Join(proof=memory_pb2.SharedProof(nonce=b"x" * 16))

    assert isinstance(transport_for(ring, None, proven, 512), SharedTransport)
    assert isinstance(transport_for(ring, None, blind, 512), InlineTransport)
    assert isinstance(transport_for(None, None, proven, 512), InlineTransport)


@pytest.fixture
def bell(tmp_path):
    bell = Doorbell.create(tmp_path)
    yield bell
    bell.close()


@pytest.mark.parametrize("hears", [True, False])
async def test_frames_are_told_of_by_the_bell_where_the_detokenizer_listens(
    ring, bell, hears, tmp_path
):
    join = model_pb2.Join(proof=memory_pb2.SharedProof(nonce=ring.file.nonce), hears=hears)
    listener = Listener(bell.name, ANNOUNCEMENT_BYTES, tmp_path)
    outlet = FrameStream(transport_for(ring, bell, join, 512))

    outlet.offer(frame(3, 4))

    told = list(read_announcements(listener.hear()))
    assert [announced.sequence for announced in told] == ([1] if hears else [])
    assert [sent.frame.sequence for sent in outlet._mailbox._messages] == ([] if hears else [1])
    if hears:
        place = ring.file.view[told[0].offset : told[0].offset + told[0].length]
        assert read_frame(bytes(place)).rows["position"].tolist() == [3, 4]
    listener.close()


async def test_rows_that_a_full_bell_does_not_take_become_a_gap(bell, tmp_path):
    file = SharedFile.create("ring", 1 << 20, tmp_path)
    fcntl.fcntl(bell._descriptor, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)  # as small as pipes are
    listener = Listener(bell.name, ANNOUNCEMENT_BYTES, tmp_path)
    outlet = FrameStream(SharedTransport(Ring(file), bell))
    offered = 2 * mmap.PAGESIZE // ANNOUNCEMENT_BYTES
    left_out = sum(outlet.offer(frame(i, handle=i)) for i in range(offered))

    told = []
    while heard := listener.hear():
        told += read_announcements(heard)
    assert [announced.sequence for announced in told] == list(range(1, offered - left_out + 1))
    asked = [announced.sequence for announced in told if announced.acknowledge]
    assert asked, "nothing would tell the model that there is room again"

    outlet.acknowledge(asked[-1])
    gap = (await outlet.take()).gap
    assert [missing.handle for missing in gap.requests] == list(range(offered - left_out, offered))
    assert outlet.offer(frame(0)) == 0
    listener.close()
    file.close()


def test_a_row_with_all_alternatives_fits_the_smallest_ring():
    assert frame_bytes(1, 20) < 4096 // 4


async def test_a_frame_from_another_thread_wakes_who_waits_for_it():
    outlet = FrameStream(InlineTransport(512), post=asyncio.get_running_loop().call_soon_threadsafe)
    waiting = asyncio.ensure_future(outlet.take())
    await asyncio.sleep(0)

    await asyncio.to_thread(outlet.offer, frame(0))

    async with asyncio.timeout(10):
        assert (await waiting).frame.sequence == 1


def test_a_closed_outlet_writes_nowhere(ring, bell, tmp_path):
    listener = Listener(bell.name, ANNOUNCEMENT_BYTES, tmp_path)
    outlet = FrameStream(SharedTransport(ring, bell))
    outlet.close()

    assert outlet.offer(frame(0, 1)) == 2
    assert listener.hear() == b""
    assert ring.live_records == 0
    listener.close()
