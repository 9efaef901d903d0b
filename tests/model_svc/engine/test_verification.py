"""Proposed tokens: those that a sequence would have drawn are kept, others change nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import checkpoints
from support.engine_harness import Arithmetic, Harness, expected, spec

from kernels.select import operations_for
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.messages import Start
from model_svc.engine.threads import ThreadChoice
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

VOCAB = 515


def proposing(harness, wholes, wrong_at, most):
    """Step to the end; propose the right next tokens of each candidate, but for every n-th."""
    steps = 0
    candidates = harness.engine._candidates
    while harness.step():
        steps += 1
        for sequence, candidate in candidates.items():
            whole = wholes[candidate.request.spec.handle, candidate.index]
            if sequence.row < 0 or sequence.pending != 1:
                continue
            had = len(candidate.output)
            draft = [
                token if (had + i) % wrong_at else (token + 1) % VOCAB
                for i, token in enumerate(whole[had : had + most])
            ]
            harness.scheduler.propose(sequence, tuple(draft))
    return steps


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(1, 20)), min_size=1, max_size=6),
    st.integers(1, 7),
    st.integers(1, 6),
    st.sampled_from([40, 200]),
)
def test_tokens_are_those_of_single_steps(requests, wrong_at, most, slots):
    h = Harness(slots=slots, rows=4, budget=10)
    wholes = {}
    for handle, (length, count) in enumerate(requests):
        prompt = [handle * 7 + i for i in range(length)]
        candidates = 1 + handle % 2
        for index in range(candidates):
            wholes[handle, index] = expected(prompt, count, index)
        h.do(Start(spec(handle, prompt, count, candidates=candidates)))
    proposing(h, wholes, wrong_at, most)

    assert {place: h.ids(*place) for place in wholes} == wholes
    assert h.pool.used_slots == 0


def test_right_proposals_save_steps_and_wrong_ones_none():
    def steps(wrong_at):
        h = Harness()
        h.do(Start(spec(1, [1, 2, 3], 24)))
        return proposing(h, {(1, 0): expected([1, 2, 3], 24)}, wrong_at, most=3)

    assert steps(wrong_at=100) <= 8
    assert steps(wrong_at=1) == 24


def test_a_stop_id_among_accepted_tokens_drops_those_behind_it():
    whole = expected([4], 8)
    h = Harness()
    h.do(Start(spec(1, [4], 8, stop_ids=frozenset({whole[2]}))))
    proposing(h, {(1, 0): whole}, wrong_at=100, most=6)

    assert h.ids(1) == whole[:3]
    assert h.pool.used_slots == 0


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")
    checkpoint = read_checkpoint(folder)
    ops = operations_for("cpu", torch.float32)
    weights = load_weights(checkpoint, ops, torch.float32)
    return Decoder(checkpoint.spec, weights, ops, torch.float32)


def generated(decoder, propose):
    """Rows of a greedy and of a random request with penalties; and the steps."""

    def runner(slots, rows, context):
        kv = KvCache(decoder.spec, slots, torch.float32)
        threads = ThreadChoice(1, torch.get_num_threads())
        return HostRunner(decoder, kv, SamplingRows(rows, context, VOCAB), threads, Sampler(VOCAB))

    h = Harness(512, runner=runner)
    choices = {"temperature": 1.2, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    h.do(Start(spec(1, [5, 6, 7], 12, sampling=SamplingParams(seed=3, temperature=0.0))))
    h.do(Start(spec(2, [9], 12, sampling=SamplingParams(seed=4, logprobs=2, **choices))))
    steps = propose(h)
    return h, steps


def test_a_model_draws_the_same_tokens_with_proposals_and_without(decoder):
    single, _ = generated(decoder, lambda h: h.idle())
    wholes = {(handle, 0): single.ids(handle) for handle in (1, 2)}
    proposed, steps = generated(decoder, lambda h: proposing(h, wholes, wrong_at=5, most=4))

    assert steps < 12
    for handle, _ in wholes:
        assert proposed.ids(handle) == single.ids(handle)
    logprobs = [[row[4] for row in h.rows if row[0] == 2] for h in (single, proposed)]
    assert np.isfinite(logprobs).all()
    np.testing.assert_allclose(*logprobs, atol=1e-5)


def test_the_model_of_arithmetic_refuses_a_token_before_it_is_known():
    h = Harness(runner=Arithmetic)
    h.do(Start(spec(1, [1], 4)))
    h.step()
    h.runner.rows[0].tokens.pop()

    with pytest.raises(AssertionError, match="before it is known"):
        h.step()
