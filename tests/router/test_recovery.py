from __future__ import annotations

import asyncio

import grpc
import pytest
from support.deployments.routers import (
    collect,
    deployed,
    details_of,
    failure,
    generate_request,
    held_back,
    load_until,
    texts,
)
from support.fakes.router import LENGTH, STOP, FakeReplica

from protos import detokenizer_pb2, generation_pb2, service_pb2
from router.admission.quarantine import UNSEEN_TOKENS

LONG = {"max_tokens": 60}


async def begun(deployment, replica, **asked):
    """A stream of which the first step has been read, and its submit."""
    before = len(replica.submits)
    call = deployment.stub.GenerateStream(generate_request(**{**LONG, **asked}))
    await replica.submits.until(before + 1)
    submit = replica.submits[before]
    replica.step(submit)
    return call, submit, await anext(aiter(call))


async def metric(deployment, name):
    text = (await deployment.introspection.Scrape(service_pb2.ScrapeRequest())).text.decode()
    (line,) = (one for one in text.splitlines() if one.startswith(f"triptych_router_{name}_total "))
    return float(line.split()[1])


async def all_heard(deployment, replica):
    """Wait until the router has taken in all text so far: nobody wants what comes after it."""
    fenced = await metric(deployment, "fenced_deltas")
    replica.send_text([detokenizer_pb2.TextDelta(handle=1)])
    while await metric(deployment, "fenced_deltas") == fenced:
        pass  # each question gives the router a turn


async def test_a_lost_detokenizer_is_told_again_of_what_the_model_still_runs(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call, submit, first = await begun(deployment, replica, max_tokens=3)
        replica.drop_streams("watch")
        await replica.registers.until(2)
        fresh, again = replica.registers.items
        for finish in (0, LENGTH):
            replica.step(submit, finish=finish)
        rest = await collect(call)
        renewed = await metric(deployment, "reregistrations")

    assert texts([first, *rest]) == [["a "], ["b "], ["c "]]
    assert (fresh.attempt, again.attempt) == (1, 1)
    assert (again.handle, again.delivered[0].text_length) == (fresh.handle, 2)
    assert (len(replica.submits), len(replica.cancels), renewed) == (1, 0, 1)


async def test_what_a_detokenizer_does_not_come_back_for_is_moved(tmp_path):
    replicas = [held_back(), FakeReplica()]
    async with deployed(tmp_path, replicas=replicas, rejoin_s=0.1) as deployment:
        await load_until(deployment, lambda load: all(one.ready for one in load.replicas))
        call, _, first = await begun(deployment, replicas[0])
        replicas[0].link(False)
        await replicas[0].cancels.until(1)
        await replicas[0].releases.until(1)
        messages = await collect(call)

    assert texts([first, *messages])[:2] == [["a "], ["b "]]
    assert len(replicas[1].submits[0].progress[0].ids) == 4
    assert messages[-1].usage.completion_tokens == 60


async def test_what_a_detokenizer_left_is_moved_once_there_is_anywhere(tmp_path):
    replicas = [held_back(), FakeReplica()]
    async with deployed(tmp_path, replicas=replicas, fakes=False, rejoin_s=0.05) as deployment:
        first, second = replicas
        async with (
            deployment.serve_tokenizer(),
            deployment.serve_model(0),
            deployment.serve_detokenizer(0),
        ):
            call, _, begun_with = await begun(deployment, first)
            first.link(False)
            await load_until(deployment, lambda load: not load.replicas[0].ready)
            await asyncio.sleep(0.1)  # too long, but there is no other
            stays = len(first.cancels)
            async with deployment.serve_model(1), deployment.serve_detokenizer(1):
                messages = await collect(call)

    assert stays == 0
    assert len(second.submits) == 1
    assert texts([begun_with, *messages])[:2] == [["a "], ["b "]]


async def test_nothing_waits_for_a_detokenizer_beyond_the_recovery_limit(tmp_path):
    patience = {"rejoin_s": 0.05, "recovery_s": 0.2}
    async with deployed(tmp_path, replicas=[held_back()], **patience) as deployment:
        replica = deployment.replica
        call, _, _ = await begun(deployment, replica)
        replica.link(False)
        error = await failure(call)
        await replica.releases.until(1)

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "detokenizer is away" in error.details()


async def test_what_an_earlier_attempt_says_is_not_heard(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call, submit, first = await begun(deployment, replica)
        replica.drop_streams("run")
        await replica.submits.until(2)
        stale = {"handle": submit.handle, "attempt": 1, "position": 1, "token_ids": [7]}
        replica.send_text([{**stale, "text": "stale", "finish_reason": LENGTH}])
        replica.step(replica.submits[1], finish=LENGTH)
        rest = await collect(call)
        fenced = await metric(deployment, "fenced_deltas")

    assert texts([first, *rest]) == [["a "], ["b "]]
    assert fenced == 1


async def test_a_candidate_that_has_ended_is_not_run_again(tmp_path):
    sampling = generation_pb2.SamplingParams(n=2)
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.GenerateStream(generate_request(sampling=sampling, **LONG))
        await replica.submits.until(1)
        replica.step(replica.submits[0], [1], finish=STOP, matched_stop="END")
        first = await anext(aiter(call))
        replica.drop_streams("run")
        await replica.submits.until(2)
        replica.step(replica.submits[1], [0], finish=LENGTH)
        rest = await collect(call)

    assert [progress.finished for progress in replica.submits[1].progress] == [False, True]
    assert [one.finished for one in replica.registers[1].delivered] == [False, True]
    assert texts([first, *rest]) == [["a "], ["a "]]


@pytest.mark.parametrize("seen", [0, 1, 2])
async def test_scores_of_the_prompt_are_asked_for_until_they_are_all_there(tmp_path, seen):
    output = generation_pb2.OutputOptions(prompt_logprobs=True)
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call = deployment.stub.Generate(generate_request("hi", max_tokens=1, output=output))
        await replica.submits.until(1)
        submit = replica.submits[0]
        scores = [generation_pb2.TokenLogprob(token_id=i) for i in replica.prompts[0]]
        delta = {"handle": submit.handle, "attempt": 1, "prompt_logprobs": scores[:seen]}
        replica.send_text([detokenizer_pb2.TextDelta(**delta)])
        # The ending may come before scores that were left out.
        replica.step(submit, finish=LENGTH if seen == 1 else 0)
        await all_heard(deployment, replica)
        replica.drop_streams()
        await replica.submits.until(2)
        again, register = replica.submits[1], replica.registers[1]
        if again.prompt_logprobs:
            more = {"handle": submit.handle, "attempt": 2, "prompt_logprobs": scores}
            replica.send_text([detokenizer_pb2.TextDelta(**more)])
        if seen != 1:
            replica.step(again, finish=LENGTH)
        answer = await call

    assert [score.token_id for score in answer.prompt.logprobs] == replica.prompts[0]
    assert again.prompt_logprobs == register.output.prompt_logprobs == (seen < len(scores))
    if seen == 1:  # nothing else is left to do
        assert (again.stop.max_tokens, again.sampling.n, len(again.progress)) == (0, 1, 0)


async def test_what_ran_in_three_crashes_is_refused_and_its_neighbour_is_not(tmp_path, caplog):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        poison, submit, _ = await begun(deployment, replica)
        neighbour, other, _ = await begun(deployment, replica)
        replica.crash()
        await replica.submits.until(4)
        assert {one.handle for one in replica.submits.items[2:4]} == {submit.handle, other.handle}
        replica.crash()
        await replica.submits.until(5)
        assert replica.submits[4].handle == submit.handle
        replica.crash()
        error = await failure(poison)
        await replica.submits.until(6)
        last = replica.submits[5]
        replica.step(last, finish=LENGTH)
        rest = await collect(neighbour)
        counted = await metric(deployment, "crash_implications")

    assert error.code() is grpc.StatusCode.INTERNAL
    assert next(details_of(error)).reason == "IMPLICATED_IN_CRASHES"
    assert f"{submit.handle:#018x}" in [getattr(r, "handle", "") for r in caplog.records]
    assert (last.handle, last.attempt) == (other.handle, 3)
    assert texts(rest) == [["b "]]
    assert counted == 5


def prove(replica, submit):
    """Take a suspect beyond where it can have been when the engine crashed."""
    for _ in range(UNSEEN_TOKENS + 1):
        replica.step(submit)


async def suspects(deployment, replica, count):
    """Requests that were running in two crashes; the first of them runs again."""
    calls = [await begun(deployment, replica) for _ in range(count)]
    for crash in range(2):
        replica.crash()
        await replica.submits.until(2 * count + crash)
    return [call for call, _, _ in calls]


async def test_a_suspect_that_comes_beyond_the_crash_keeps_nobody_waiting(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        calls = await suspects(deployment, replica, 3)
        for number in (7, 8, 9):
            await replica.submits.until(number)
            assert len(replica.submits) == number
            prove(replica, replica.submits[number - 1])
        for submit in replica.submits.items[6:]:
            replica.step(submit, finish=LENGTH)
        ends = [await collect(call) for call in calls]

    expected = [chr(98 + i) + " " for i in range(UNSEEN_TOKENS + 2)]
    assert [[text for step in texts(rest) for text in step] for rest in ends] == [expected] * 3


async def test_nobody_is_refused_for_a_crash_that_another_may_have_caused(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        late, innocent = await suspects(deployment, replica, 2)
        prove(replica, replica.submits[4])  # it crashes the engine only later
        await replica.submits.until(6)
        await all_heard(deployment, replica)
        replica.crash()
        await replica.submits.until(7)
        assert replica.submits[6].handle == replica.submits[5].handle
        prove(replica, replica.submits[6])
        await replica.submits.until(8)  # the culprit again, beside the proven one
        replica.crash()
        await replica.submits.until(9)
        assert replica.submits[8].handle == replica.submits[4].handle
        replica.crash()
        error = await failure(late)
        await replica.submits.until(10)
        replica.step(replica.submits[9], finish=LENGTH)
        rest = await collect(innocent)

    assert next(details_of(error)).reason == "IMPLICATED_IN_CRASHES"
    assert rest[-1].usage.completion_tokens == UNSEEN_TOKENS + 3


async def test_the_only_suspect_in_a_crash_starts_first_and_by_itself(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        innocent, poison, last = await suspects(deployment, replica, 3)
        prove(replica, replica.submits[6])
        await replica.submits.until(8)  # the poison, beside the proven one
        replica.crash()
        await replica.submits.until(9)
        assert replica.submits[8].handle == replica.submits[7].handle
        await all_heard(deployment, replica)
        assert len(replica.submits) == 9
        replica.crash()
        error = await failure(poison)
        await replica.submits.until(11)
        for submit in replica.submits.items[9:]:
            replica.step(submit, finish=LENGTH)
        ends = [await collect(call) for call in (innocent, last)]

    assert next(details_of(error)).reason == "IMPLICATED_IN_CRASHES"
    assert [rest[-1].usage.completion_tokens for rest in ends] == [UNSEEN_TOKENS + 3, 2]


async def test_whom_the_refused_request_had_implicated_runs_beside_others_again(tmp_path):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        poison, *others = await suspects(deployment, replica, 3)
        replica.crash()
        await failure(poison)
        await replica.submits.until(9)  # both at once
        for submit in replica.submits.items[7:]:
            replica.step(submit, finish=LENGTH)
        ends = [await collect(call) for call in others]

    assert [texts(rest) for rest in ends] == [[["b "]]] * 2


@pytest.mark.parametrize("how", ["the same process comes back", "it said that it ends"])
async def test_what_was_no_crash_is_laid_to_nobody(tmp_path, how):
    async with deployed(tmp_path, replicas=[held_back()]) as deployment:
        replica = deployment.replica
        call, _, _ = await begun(deployment, replica)
        for times in range(4):
            orderly = how != "the same process comes back"
            replica.incarnation += orderly
            replica.drop_streams("run", orderly=orderly)
            await replica.submits.until(2 + times)
        replica.step(replica.submits[-1], finish=LENGTH)
        rest = await collect(call)
        counted = await metric(deployment, "crash_implications")

    assert texts(rest) == [["b "]]
    assert counted == 0


async def test_ids_are_turned_into_text_by_whichever_detokenizer_is_there(tmp_path):
    ask = generation_pb2.DetokenizeRequest(token_ids=[104, 105])
    replicas = [FakeReplica(), FakeReplica()]
    async with deployed(tmp_path, replicas=replicas, fakes=False) as one, one.serve_model(0):
        waiting = asyncio.create_task(_detokenized(one, ask))
        await one.replica.hellos.until(1)
        async with one.serve_detokenizer(1):
            assert (await waiting).text == "hi"


async def _detokenized(deployment, ask):
    return await deployment.stub.Detokenize(ask)
