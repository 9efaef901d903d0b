from __future__ import annotations

import asyncio

from support.deployments.routers import (
    collect,
    deployed,
    generate_request,
    held_back,
    load_until,
    texts,
)
from support.fakes.router import LENGTH

from protos import detokenizer_pb2, generation_pb2


async def test_what_a_lost_replica_ran_goes_on_from_where_it_was(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(generate_request())
        await replica.submits.until(1)
        replica.step(replica.submits[0])
        seen = [await anext(aiter(call))]
        replica.automatic = True
        replica.drop_streams()
        seen += await collect(call)
        first, second = replica.submits.items
        fresh, again = replica.registers.items

    assert texts(seen) == [["a "], ["b "], ["c "]]
    assert (first.handle, second.handle) == (fresh.handle,) * 2
    assert [submit.attempt for submit in (first, second)] == [1, 2]
    assert (len(first.progress), len(fresh.delivered)) == (0, 0)
    (progress,), (delivered,) = second.progress, again.delivered
    assert (progress.ids, progress.finished) == (bytes([97, 0, 0, 0]), False)
    assert (delivered.ids, delivered.text_length, delivered.finished) == (progress.ids, 2, False)
    assert len(replica.hellos) == 2


async def test_a_number_that_another_router_has_is_drawn_again(tmp_path):
    async with deployed(tmp_path) as deployment:
        replica = deployment.replica
        await deployment.stub.Generate(generate_request())
        replica.taken.add(replica.hellos[0].router)
        replica.drop_streams()
        await deployment.stub.Generate(generate_request())
        old, new = replica.hellos.items
        submit = replica.submits[1]

    assert new.router != old.router
    assert submit.handle >> 32 == new.router
    assert replica.listens[-1].router == new.router


async def test_nothing_starts_while_the_detokenizer_has_lost_the_model(tmp_path):
    async with deployed(tmp_path) as deployment:
        replica = deployment.replica
        await deployment.stub.Generate(generate_request())
        replica.link(False)
        await load_until(deployment, lambda load: not load.replicas[0].ready)
        call = deployment.stub.Generate(generate_request())
        await deployment.tokenizer.answered.until(2)
        assert len(replica.submits) == 1
        replica.link(True)
        await call

    assert len(replica.submits) == 2


async def test_a_prompt_whose_scores_come_again_after_the_ending_is_told_whole(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        output = generation_pb2.OutputOptions(prompt_logprobs=True)
        call = deployment.stub.Generate(generate_request(max_tokens=1, output=output))
        await replica.submits.until(1)
        submit, count = replica.submits[0], len(replica.prompts[0])
        replica.step(submit, finish=LENGTH)
        late = detokenizer_pb2.TextDelta(handle=submit.handle, attempt=submit.attempt, position=1)
        late.prompt_logprobs.extend(generation_pb2.TokenLogprob(token_id=i) for i in range(count))
        replica.send_text([late])
        answer = await asyncio.wait_for(call, 5)
        await replica.releases.until(1)
        await replica.forgets.until(1)
        await load_until(deployment, lambda load: not load.running)

    assert len(answer.prompt.logprobs) == count
    assert answer.usage.completion_tokens == 1
    assert not len(replica.cancels)
