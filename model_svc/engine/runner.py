"""One engine step on the device: tokens in, drawn tokens and prompt scores out.

Owned by the engine thread, the only one that may call torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from model_svc.engine.graph_cache import GraphCache
from model_svc.engine.request import NO_ALTERNATIVES, Candidate, OutputRow
from model_svc.engine.threads import ThreadChoice
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Drawn, Records
from model_svc.sampling.params import SampleInput
from model_svc.scheduling.scheduler import Chunk, Plan
from model_svc.scheduling.scheduler import Sequence as Scheduled
from protos.token_frame import PROMPT

# Logits are float32 over the whole vocabulary; scoring a prompt in runs of rows bounds their size.
_SCORED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step produced.

    Attributes:
        drawn_for: whose tokens `drawn` holds, in order.
        drawn: the tokens; None where nothing was drawn.
        prompt_rows: candidate whose request's prompt was scored → its new rows.
    """

    drawn_for: list[Candidate]
    drawn: Drawn | None
    prompt_rows: list[tuple[Candidate, list[OutputRow]]]


class TokenSampler(Protocol):
    """Turns logits into tokens, where they lie: see `model_svc.sampling.cpu_sampler.Sampler`."""

    def draw(self, logits: torch.Tensor, draws: Sequence[SampleInput]) -> Drawn: ...

    def score(
        self, logits: torch.Tensor, tokens: npt.NDArray[np.int32], alternatives: int
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]: ...


class Runner:
    """A model, its KV cache and its sampler."""

    def __init__(
        self,
        decoder: Decoder,
        kv: KvCache,
        slot_table: npt.NDArray[np.int32],
        threads: ThreadChoice,
        sampler: TokenSampler,
    ) -> None:
        self._threads = threads
        self._decoder = decoder
        self._kv = kv
        self._steps = GraphCache(decoder, kv)
        self._slot_table = slot_table
        self._sampler = sampler
        self._device = kv.device

    def run(self, plan: Plan, candidates: Mapping[Scheduled, Candidate]) -> StepResult:
        """Compute `plan`; `candidates` tells whose sequence each is."""
        chunks = plan.chunks
        batch = Batch.build(
            _token_ids(chunks, candidates),
            np.array([chunk.sequence.row for chunk in chunks], np.int64),
            np.array([chunk.start for chunk in chunks], np.int64),
            np.array([chunk.count for chunk in chunks], np.int64),
            self._slot_table,
        ).on(self._device)
        self._threads.apply(len(batch.token_ids))
        owners = [[o for s in chunk.draws if (o := candidates[s]).may_draw] for chunk in chunks]
        drawing = [number for number, own in enumerate(owners) if own]
        scored = [
            number
            for number, chunk in enumerate(chunks)
            if candidates[chunk.sequence].request.wants_scores_from(chunk.start)
        ]
        rows: list[tuple[Candidate, list[OutputRow]]] = []
        if scored:
            hidden = self._decoder.forward(batch, self._kv)
            ends = batch.attention.q_starts[1:].tolist()
            for number in scored:
                chunk, owner = chunks[number], candidates[chunks[number].sequence]
                own = hidden[ends[number] - chunk.count : ends[number]]
                rows.append((owner, list(self._score(own, owner, chunk))))
            logits = self._last_logits(batch, hidden, drawing)
        else:
            logits = self._computed(batch, drawing)
        drawn = None if logits is None else self._draw(logits, [own for own in owners if own])
        return StepResult([owner for own in owners for owner in own], drawn, rows)

    def _last_logits(
        self, batch: Batch, hidden: torch.Tensor, drawing: Sequence[int]
    ) -> torch.Tensor | None:
        """Of the chunks so numbered, None where there are none."""
        if not drawing:
            return None
        return self._decoder.logits(hidden.index_select(0, batch.finals(drawing).rows))

    def _computed(self, batch: Batch, drawing: Sequence[int]) -> torch.Tensor | None:
        """Run a step; the logits of its chunks so numbered, None where there are none."""
        if not drawing:
            self._steps.advance(batch)
            return None
        finals = None if len(drawing) == len(batch.token_ids) else batch.finals(drawing)
        return self._steps.logits(batch, finals)

    def _draw(self, logits: torch.Tensor, owners: Sequence[Sequence[Candidate]]) -> Drawn:
        """Sample the next token of each sequence: those of `owners[i]` from row `i` of `logits`."""
        draws = [owner.draw for own in owners for owner in own]
        if len(draws) > len(owners):
            logit_rows = [row for row, own in enumerate(owners) for _ in own]
            logits = logits[torch.tensor(logit_rows)]
        return self._sampler.draw(logits, draws)

    def _score(self, hidden: torch.Tensor, owner: Candidate, chunk: Chunk) -> Iterator[OutputRow]:
        """Score the prompt tokens that follow those of the chunk."""
        spec = owner.request.spec
        if chunk.start == 0:
            yield OutputRow(0, int(spec.prompt[0]), 0.0, PROMPT, NO_ALTERNATIVES)
        wanted = min(chunk.start + chunk.count, len(spec.prompt) - 1)
        for start in range(chunk.start, wanted, _SCORED_AT_ONCE):
            end = min(start + _SCORED_AT_ONCE, wanted)
            logits = self._decoder.logits(hidden[start - chunk.start : end - chunk.start])
            tokens = spec.prompt[start + 1 : end + 1]
            logprobs, alternatives = self._sampler.score(
                logits, tokens, spec.sampling.logprobs or 0
            )
            rows = zip(tokens.tolist(), logprobs.tolist(), alternatives, strict=True)
            for position, (token, logprob, others) in enumerate(rows, start + 1):
                yield OutputRow(position, token, logprob, PROMPT, others)


def _token_ids(
    chunks: Sequence[Chunk], candidates: Mapping[Scheduled, Candidate]
) -> npt.NDArray[np.int32]:
    """The chunks' tokens, end to end. Arrays of one token each would cost more than the tokens."""
    if all(chunk.count == 1 for chunk in chunks):
        return np.array([candidates[c.sequence].token(c.start) for c in chunks], np.int32)
    return np.concatenate([candidates[c.sequence].tokens(c.start, c.count) for c in chunks])
