"""A step on the device: each draw from its own sequence's logits, each prompt token by its own."""

import numpy as np
import pytest
import torch
from support import checkpoints

from kernels.select import operations_for
from model_svc.engine.frame_builder import FrameBuilder
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.request import Request, RequestSpec
from model_svc.engine.step_pipeline import StepPipeline
from model_svc.engine.threads import ThreadChoice
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.scheduling.scheduler import Scheduler
from model_svc.scheduling.slot_pool import SlotPool
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

SLOTS = 256


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "llama")
    checkpoint = read_checkpoint(folder)
    ops = operations_for("cpu", torch.float32)
    weights = load_weights(checkpoint, ops, torch.float32)
    return Decoder(checkpoint.spec, weights, ops, torch.float32)


def logits(decoder, tokens):
    """[tokens, vocab] by one pass over a cache of its own."""
    kv = KvCache(decoder.spec, SLOTS, torch.float32)
    table = np.arange(SLOTS, dtype=np.int32)[None]
    batch = Batch.build(
        np.array(tokens), np.array([0]), np.array([0]), np.array([len(tokens)]), table
    )
    return decoder.logits(decoder.forward(batch, kv))


class Steps:
    """Requests run step by step, without an engine."""

    def __init__(self, decoder, *requests, budget=64):
        scheduler = Scheduler(SlotPool(SLOTS), rows=8, context=128, max_batch_tokens=budget)
        kv = KvCache(decoder.spec, SLOTS, torch.float32)
        threads = ThreadChoice(1, torch.get_num_threads())
        vocab = decoder.spec.vocab_size
        runner = HostRunner(decoder, kv, SamplingRows(8, 128, vocab), threads, Sampler(vocab))
        self.scheduler = scheduler
        candidates = {c.sequence: c for request in requests for c in request.candidates}
        self.pipeline = StepPipeline(runner, scheduler, candidates)
        for request in requests:
            for sequence in request.sequences():
                scheduler.add(sequence)

    def step(self):
        assert self.pipeline.launch()
        self.pipeline.collect(FrameBuilder())


def request(handle, prompt, n=1, max_tokens=4, **sampling):
    spec = RequestSpec(
        handle=handle,
        attempt=1,
        request_id="r",
        prompt=np.array(prompt, np.int32),
        sampling=SamplingParams(seed=handle, **{"temperature": 0.0, **sampling}),
        candidates=n,
        max_tokens=max_tokens,
        stop_ids=frozenset(),
        prompt_logprobs="logprobs" in sampling,
        priority=0,
    )
    return Request(spec, arrival=handle)


def test_each_sequence_takes_the_likeliest_token_of_its_own_logits(decoder):
    prompts = [[5, 6, 7], [100, 3], [9] * 20]
    requests = [
        request(i, prompt, n=n)
        for i, (prompt, n) in enumerate(zip(prompts, (1, 2, 3), strict=True))
    ]
    steps = Steps(decoder, *requests)
    for _ in range(3):
        steps.step()

    for prompt, one in zip(prompts, requests, strict=True):
        tokens = list(prompt)
        for _ in range(3):
            tokens.append(int(logits(decoder, tokens)[-1].argmax()))
        assert {tuple(c.output) for c in one.candidates} == {tuple(tokens[len(prompt) :])}


@pytest.mark.parametrize("budget", [64, 8])
def test_each_prompt_token_is_scored_by_the_logits_before_it(decoder, budget):
    prompt = [int(token) for token in np.random.default_rng(1).integers(3, 250, 20)]
    scored = request(1, prompt, logprobs=2)
    steps = Steps(decoder, scored, request(2, [4, 5]), budget=budget)
    while len(scored.prompt_rows) < len(prompt):
        steps.step()

    want = logits(decoder, prompt).log_softmax(dim=-1)
    assert [row.token for row in scored.prompt_rows] == prompt
    assert [row.position for row in scored.prompt_rows] == list(range(20))
    assert scored.prompt_rows[0].logprob == 0
    for row in scored.prompt_rows[1:]:
        before = want[row.position - 1]
        assert row.logprob == pytest.approx(float(before[row.token]), abs=1e-5)
        assert row.alternatives["token"].tolist() == before.topk(2).indices.tolist()
