"""A request that returns with what it had produced goes on as if it had never been away.

The model is a real one, and what is compared is exact: each row, its log-probabilities bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from support import checkpoints
from support.engine_harness import Harness, earlier, spec

from kernels.select import operations_for
from model_svc.engine.host_runner import HostRunner
from model_svc.engine.messages import Forget, Start
from model_svc.engine.request import EarlierOutput
from model_svc.engine.threads import ThreadChoice
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Sampler
from model_svc.sampling.params import SamplingParams
from model_svc.sampling.rows import SamplingRows
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights
from protos.token_frame import LENGTH, NO_TOKEN, PROMPT, STOP

VOCAB = 515
PROMPT_IDS = [int(token) for token in np.random.default_rng(3).integers(3, 250, 21)]
OTHERS = range(10, 13)
MAX_TOKENS = 10

Told = tuple[int, int, bytes, int, tuple[tuple[int, float], ...]]
"""Position, token, log-probability, flags and alternatives of a row."""


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = checkpoints.write_checkpoint(tmp_path_factory.mktemp("tiny"), "mixtral")
    checkpoint = read_checkpoint(folder)
    ops = operations_for("cpu", torch.float32)
    weights = load_weights(checkpoint, ops, torch.float32)
    return Decoder(checkpoint.spec, weights, ops, torch.float32)


@dataclass(frozen=True)
class Case:
    """A request, and the engine it runs in.

    Attributes:
        sampling: how it draws.
        request: what else it asks for.
        slots, budget: of the engine.
        beside: whether other requests run, each at a point of its own.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    slots: int = 512
    budget: int = 64
    beside: bool = False

    def run(
        self, decoder: Decoder, progress: Mapping[int, EarlierOutput], *, attempt: int
    ) -> tuple[dict[tuple[int, int], list[Told]], Harness]:
        """All rows of (candidate, whether of the prompt), and the engine that told them."""

        def runner(slots: int, rows: int, context: int) -> HostRunner:
            kv = KvCache(decoder.spec, slots, torch.float32)
            threads = ThreadChoice(1, torch.get_num_threads())
            state = SamplingRows(rows, context, VOCAB)
            return HostRunner(decoder, kv, state, threads, Sampler(VOCAB))

        h = Harness(self.slots, budget=self.budget, runner=runner)
        if self.beside:
            for handle in OTHERS:
                h.do(Start(spec(handle, PROMPT_IDS[: handle - 5], 30, priority=-1)))
                h.step()
        values: dict[str, Any] = {"sampling": SamplingParams(**({"seed": 5} | dict(self.sampling)))}
        values |= {"max_tokens": MAX_TOKENS} | dict(self.request)
        h.do(Start(spec(1, PROMPT_IDS, attempt=attempt, progress=progress, **values)))
        h.idle()
        h.do(Forget(1), *(Forget(handle) for handle in OTHERS))
        h.idle()
        assert h.pool.used_slots == 0
        return rows_of(h), h


def rows_of(h: Harness) -> dict[tuple[int, int], list[Told]]:
    told: dict[tuple[int, int], list[Told]] = {}
    for frame in (report.frame for report in h.reports if report.frame is not None):
        start = 0
        for row in frame.rows:
            end = start + int(row["alternatives"])
            alternatives = tuple(frame.alternatives[start:end].tolist())
            start = end
            if row["handle"] == 1:
                flags = int(row["flags"])
                place = int(row["candidate"]), flags & PROMPT
                logprob = row["logprob"].tobytes()
                entry = int(row["position"]), int(row["token"]), logprob, flags, alternatives
                told.setdefault(place, []).append(entry)
    return told


PENALTIES = {  # over few tokens, so that each depends on all before it
    "temperature": 0.9,
    "top_p": 0.99,
    "top_k": 50,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 1.0,
    "logit_bias": dict.fromkeys(range(300, 304), 9.0),
}
ENDS_EARLY = {
    "temperature": 1.5,
    "min_tokens": 4,
    "suppressed_ids": (checkpoints.EOS_ID,),
    "logit_bias": {checkpoints.EOS_ID: 8.0, 300: 3.0},
}
BAD_WORDS = {  # over so few tokens that each sequence would come soon
    **PENALTIES,
    "logprobs": 2,
    "bad_sequences": ((303,), (300, 301), (301, 301), (302, 300, 302), (PROMPT_IDS[-1], 302)),
}
EOS = {"stop_ids": frozenset({checkpoints.EOS_ID})}
CASES = {
    "greedy": Case({"temperature": 0.0}),
    "penalties": Case(PENALTIES),
    "min_tokens and bias": Case(ENDS_EARLY, EOS),
    "log-probabilities": Case({"logprobs": 3}),
    "prompt log-probabilities": Case({"logprobs": 2}, {"prompt_logprobs": True}, budget=8),
    "candidates": Case({**PENALTIES, **ENDS_EARLY}, {**EOS, "candidates": 3}),
    "candidates in chunks": Case(PENALTIES, {"candidates": 4}, budget=8),
    "among others": Case(PENALTIES, {"candidates": 2}, budget=8, beside=True),
    "bad words": Case(BAD_WORDS, {"candidates": 2}),
    "bad words, greedy, in chunks": Case({**BAD_WORDS, "temperature": 0.0}, budget=8),
    "bad words, put back": Case(BAD_WORDS, {"candidates": 3}, slots=80, budget=16, beside=True),
    "put back": Case(PENALTIES, {"candidates": 3}, slots=80, budget=16, beside=True),
}


def progress_at(cut: int, whole: Mapping[tuple[int, int], Sequence[Told]]) -> dict[int, int]:
    """Tokens that each candidate had at a cut: they go at paces of their own."""
    return {
        index: cut * (index + 1) % (len(rows) + 1)
        for (index, prompt), rows in whole.items()
        if not prompt
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_from_every_point_it_goes_on_exactly_as_undisturbed(decoder: Decoder, case: Case) -> None:
    whole, _ = case.run(decoder, {}, attempt=1)
    longest = max(len(rows) for (_, prompt), rows in whole.items() if not prompt)
    for cut in range(longest + 1):
        had = progress_at(cut, whole)
        progress = {
            index: earlier([row[1] for row in rows[:count]], finished=count == len(rows))
            for index, count in had.items()
            for rows in [whole[index, 0]]
        }
        resumed, _ = case.run(decoder, progress, attempt=2)

        expected = {place: rows for place, rows in whole.items() if place[1]}
        expected |= {(index, 0): whole[index, 0][count:] for index, count in had.items()}
        assert resumed == {place: rows for place, rows in expected.items() if rows}, f"cut {cut}"


def test_the_cases_above_are_what_they_say(decoder: Decoder) -> None:
    early, _ = CASES["min_tokens and bias"].run(decoder, {}, attempt=1)
    assert early[0, 0][-1][3] == STOP
    assert 4 < len(early[0, 0]) < MAX_TOKENS
    candidates, _ = CASES["candidates"].run(decoder, {}, attempt=1)
    assert len({tuple(row[1] for row in rows) for rows in candidates.values()}) == 3
    for progress in ({}, {0: earlier([5, 6])}):
        _, crowded = CASES["put back"].run(decoder, progress, attempt=1)
        assert crowded.meter.preempted > 0
    _, crowded = CASES["bad words, put back"].run(decoder, {}, attempt=1)
    assert crowded.meter.preempted > 0


@pytest.mark.parametrize("case", [CASES[name] for name in CASES if name.startswith("bad words")])
def test_a_bad_word_is_never_written_and_would_have_been(decoder: Decoder, case: Case) -> None:
    found = []
    for sampling in (case.sampling, {**case.sampling, "bad_sequences": ()}):
        told, _ = replace(case, sampling=sampling).run(decoder, {}, attempt=1)
        texts = [[*PROMPT_IDS, *(row[1] for row in rows)] for rows in told.values()]
        found.append(sum(_occurrences(text) for text in texts))
        assert all(np.isfinite(np.frombuffer(row[2], "<f4"))[0] for row in told[0, 0])
    assert found[0] == 0 < found[1]


def _occurrences(text: list[int]) -> int:
    words = [list(word) for word in BAD_WORDS["bad_sequences"]]
    return sum(text[at : at + len(word)] == word for word in words for at in range(len(text)))


SCORES = {"prompt_logprobs": True}


@pytest.mark.parametrize("request_", [{}, SCORES], ids=["plain", "scored"])
@pytest.mark.parametrize(
    ("ids", "stops", "min_tokens", "flag"),
    [
        ([7, 8, 9], [9], 0, STOP),
        ([7, 8, 9], [9], 2, STOP),
        ([7] * MAX_TOKENS, [], 0, LENGTH),
        ([7] * MAX_TOKENS, [7], MAX_TOKENS, LENGTH),
    ],
)
def test_one_that_was_over_ends_instead_of_going_on(
    decoder: Decoder,
    request_: Mapping[str, Any],
    ids: list[int],
    stops: list[int],
    min_tokens: int,
    flag: int,
) -> None:
    case = Case({"min_tokens": min_tokens}, {"stop_ids": frozenset(stops), **request_})
    told, _ = case.run(decoder, {0: earlier(ids)}, attempt=2)

    assert [(row[0], row[3]) for row in told[0, 0]] == [(len(ids), flag | NO_TOKEN)]
    assert len(told.get((0, PROMPT), ())) == (len(PROMPT_IDS) if request_ else 0)


def test_a_stop_id_that_came_too_early_ends_nothing(decoder: Decoder) -> None:
    case = Case({"min_tokens": 3}, {"stop_ids": frozenset({9})})
    told, _ = case.run(decoder, {0: earlier([7, 8, 9])}, attempt=2)

    assert told[0, 0][0][0] == 3
    assert not told[0, 0][0][3] & NO_TOKEN


@pytest.mark.parametrize("request_", [{}, SCORES], ids=["plain", "scored"])
def test_one_that_was_finished_tells_nothing_but_the_scores_it_is_asked_for(
    decoder: Decoder, request_: Mapping[str, Any]
) -> None:
    progress = {0: earlier([7, 8], finished=True), 1: earlier([], finished=True)}
    case = Case({}, {"candidates": 2, **request_})
    told, h = case.run(decoder, progress, attempt=2)

    scores = case.run(decoder, {}, attempt=1)[0].get((0, PROMPT))
    assert told == ({(0, PROMPT): scores} if request_ else {})
    assert h.meter.used_slots == 0


def test_scoring_a_prompt_alone_can_be_resumed(decoder: Decoder) -> None:
    h_rows, _ = Case({}, {"candidates": 2, "max_tokens": 0, **SCORES}).run(
        decoder, {0: earlier([]), 1: earlier([], finished=True)}, attempt=2
    )

    assert [(row[0], row[3]) for row in h_rows[0, 0]] == [(0, LENGTH | NO_TOKEN)]
    assert len(h_rows[0, PROMPT]) == len(PROMPT_IDS)
    assert (1, 0) not in h_rows
