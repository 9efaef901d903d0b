"""Reports reach those they concern, and a slow router gets the newest load."""

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from model_svc.engine.messages import Load, Report
from model_svc.metrics import ModelMetrics
from model_svc.serving.frame_stream import FrameStream, InlineTransport
from model_svc.serving.publisher import ReportPublisher, RouterSession
from protos import model_pb2
from protos.token_frame import ALTERNATIVE, ROW, TokenFrame

FRAME = TokenFrame(np.zeros(1, dtype=ROW), np.zeros(0, dtype=ALTERNATIVE))


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def hub(registry):
    return ReportPublisher(ModelMetrics(registry, kv_slots=64))


def load(starts, used_slots=0):
    return Load(starts, running=1, waiting=0, used_slots=used_slots, steps=1, step_seconds=0.1)


async def has_message(sender):
    taking = asyncio.ensure_future(sender.take())
    await asyncio.sleep(0)
    arrived = taking.done()
    taking.cancel()
    return arrived


async def test_a_frame_goes_to_all_outlets_or_to_the_one_it_is_for(hub):
    first, second = FrameStream(InlineTransport(4096)), FrameStream(InlineTransport(4096))
    hub.add_outlet(first)
    number = hub.add_outlet(second)

    hub.deliver(Report(FRAME, None, None))
    assert await has_message(first)
    assert await has_message(second)

    hub.deliver(Report(FRAME, number, None))
    assert not await has_message(first)
    assert await has_message(second)


async def test_rows_are_counted_as_sent_again_where_they_were(hub, registry):
    number = hub.add_outlet(FrameStream(InlineTransport(256)))
    gone = hub.add_outlet(FrameStream(InlineTransport(256)))
    hub.drop_outlet(gone)
    for target in (None, number, gone, *[number] * 9):
        hub.deliver(Report(FRAME, target, None))

    left_out = registry.get_sample_value("triptych_model_rows_left_out_total")
    assert left_out > 0
    assert registry.get_sample_value("triptych_model_resent_rows_total") == 10 - left_out


async def test_an_outlet_that_left_gets_nothing(hub):
    outlet = FrameStream(InlineTransport(4096))
    hub.drop_outlet(hub.add_outlet(outlet))

    hub.deliver(Report(FRAME, None, None))

    assert not await has_message(outlet)


async def test_a_slow_router_gets_the_newest_load_with_its_own_count(hub):
    lease = RouterSession(7)
    hub.add_lease(lease)
    hub.deliver(Report(None, None, load({7: 1, 8: 5}, used_slots=10)))
    lease.refused = 2
    hub.deliver(Report(None, None, load({7: 3, 8: 5}, used_slots=20)))

    told = (await lease.take()).load

    assert (told.submits_seen, told.kv_slots_used) == (5, 20)
    assert not await has_message(lease)


async def test_frames_are_offered_at_once_and_loads_are_posted(registry):
    posted = []
    hub = ReportPublisher(ModelMetrics(registry, kv_slots=64), posted.append)
    outlet, lease = FrameStream(InlineTransport(4096)), RouterSession(7)
    hub.add_outlet(outlet)
    hub.add_lease(lease)

    hub.deliver(Report(FRAME, None, load({7: 1})))

    assert await has_message(outlet)
    assert not await has_message(lease)
    for call in posted:
        call()
    assert await has_message(lease)


async def test_a_router_that_joins_is_told_the_load_at_once(hub):
    hub.deliver(Report(None, None, load({}, used_slots=3)))
    lease = RouterSession(7)
    hub.add_lease(lease)

    assert (await lease.take()).load.kv_slots_used == 3


async def test_responses_keep_their_order_and_go_before_the_load(hub):
    lease = RouterSession(7)
    hub.add_lease(lease)
    hub.deliver(Report(None, None, load({})))
    lease.send(model_pb2.RunResponse(refusal=model_pb2.Refusal(handle=1)))
    lease.send(model_pb2.RunResponse(refusal=model_pb2.Refusal(handle=2)))

    kinds = [(await lease.take()) for _ in range(3)]

    assert [kind.refusal.handle for kind in kinds[:2]] == [1, 2]
    assert kinds[2].HasField("load")
