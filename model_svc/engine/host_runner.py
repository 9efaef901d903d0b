"""Steps on the host's own processor: a launch computes.

Owned by the engine thread, the only one that may call torch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from model_svc.engine.graph_cache import GraphCache
from model_svc.engine.threads import ThreadChoice
from model_svc.engine.verification import verify
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Drawn, Records
from model_svc.sampling.draws import NOT_ASKED, Draws
from model_svc.sampling.rows import SamplingRows
from model_svc.scheduling.step import Chunks, Int32s, Int64s, Kind, Scores, StepInput, StepOutput

# Logits are float32 over the whole vocabulary; scoring a prompt in runs of rows bounds their size.
_SCORED_AT_ONCE = 64


class TokenSampler(Protocol):
    """Turns logits into tokens, where they lie: see `model_svc.sampling.cpu_sampler.Sampler`."""

    def draw(self, logits: torch.Tensor, draws: Draws) -> Drawn: ...

    def score(
        self, logits: torch.Tensor, tokens: npt.NDArray[np.int32], alternatives: int
    ) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]: ...


class HostRunner:
    """A model, its KV cache, its sampler and the state of the sequences in rows."""

    depth = 0

    def __init__(
        self,
        decoder: Decoder,
        kv: KvCache,
        rows: SamplingRows,
        threads: ThreadChoice,
        sampler: TokenSampler,
    ) -> None:
        """Compute with `decoder` over `kv`; `rows` are those of the scheduler."""
        self._threads = threads
        self._decoder = decoder
        self._kv = kv
        self._rows = rows
        self._slot_table = np.zeros_like(rows.tokens)
        self._steps = GraphCache(decoder, kv, self._slot_table)
        self._sampler = sampler

    def launch(self, step: StepInput) -> StepOutput:
        """Compute `step`; the output is its own ticket."""
        chunks = step.chunks
        for one in step.admissions:
            self._slot_table[one.row, : len(one.shared_slots)] = one.shared_slots
            self._rows.admit(one.row, one.prompt, one.output, one.candidate, one.sampling)
        token_ids = self._lay_out(chunks)
        self._threads.apply(len(token_ids))
        if chunks.all_decoded_and_drawn and not len(step.scored):
            return self._drawn(
                self._steps.decode(token_ids, chunks.rows, chunks.starts, chunks.slots), chunks
            )
        batch = Batch.build(token_ids, chunks.rows, chunks.starts, chunks.counts, self._slot_table)
        if len(chunks.drafts) or len(step.scored):
            return self._compute_all(step, batch)
        return self._drawn(self._last_logits(batch, chunks), chunks)

    def collect(self, ticket: object) -> StepOutput:
        """The output of a step."""
        assert isinstance(ticket, StepOutput)
        return ticket

    def _lay_out(self, chunks: Chunks) -> Int32s:
        """Write the chunks' slots into the table; give their tokens, end to end."""
        decodes = chunks.num_decodes
        rows, starts = chunks.rows[:decodes], chunks.starts[:decodes]
        self._slot_table[rows, starts] = chunks.slots[:decodes]
        parts = [self._rows.tokens[rows, starts]]
        at, drafted = decodes, 0
        for number in range(decodes, len(chunks.rows)):
            row, start = int(chunks.rows[number]), int(chunks.starts[number])
            count = int(chunks.counts[number])
            self._slot_table[row, start : start + count] = chunks.slots[at : at + count]
            at += count
            if chunks.kinds[number] == Kind.VERIFY:
                parts.append(self._rows.tokens[row, start : start + 1])
                parts.append(chunks.drafts[drafted : drafted + count - 1])
                drafted += count - 1
            else:
                parts.append(self._rows.tokens[row, start : start + count])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _last_logits(self, batch: Batch, chunks: Chunks) -> torch.Tensor | None:
        """Run a step; logits of each chunk that is drawn after, None where none is."""
        drawing = np.unique(chunks.draw_chunks)
        if not len(drawing):
            self._steps.advance(batch)
            return None
        finals = None if len(drawing) == len(batch.token_ids) else batch.finals(drawing.tolist())
        return self._steps.logits(batch, finals)

    def _drawn(
        self, logits: torch.Tensor | None, chunks: Chunks, scores: tuple[Scores, ...] = ()
    ) -> StepOutput:
        """Sample the next tokens; row `i` of `logits` is of the `i`-th chunk drawn after."""
        if logits is None:
            return StepOutput(np.empty(0, np.int32), np.empty(0, np.float32), scores=scores)
        if len(chunks.draw_chunks) > len(logits):
            _, logit_rows = np.unique(chunks.draw_chunks, return_inverse=True)
            logits = logits[torch.from_numpy(logit_rows)]
        drawn = self._sampler.draw(logits, self._rows.draws(chunks.draw_rows))
        self._rows.advance(chunks.draw_rows, drawn.tokens)
        return StepOutput(drawn.tokens, drawn.logprobs, drawn.alternatives, scores=scores)

    def _compute_all(self, step: StepInput, batch: Batch) -> StepOutput:
        """Run a step that needs more than the last token of each chunk."""
        chunks = step.chunks
        hidden = self._decoder.forward(batch, self._kv)
        ends = np.cumsum(chunks.counts)
        scores = tuple(
            self._score(hidden[ends[i] - chunks.counts[i] : ends[i]], chunks, i)
            for i in step.scored.tolist()
        )
        if len(chunks.drafts):

            def logits_of(tokens: Int64s) -> torch.Tensor:
                return self._decoder.logits(hidden.index_select(0, torch.from_numpy(tokens)))

            output = verify(chunks, logits_of, self._rows, self._sampler.draw)
            return StepOutput(
                output.tokens, output.logprobs, output.alternatives, output.counts, scores
            )
        last = torch.from_numpy(ends[np.unique(chunks.draw_chunks)] - 1)
        logits = self._decoder.logits(hidden.index_select(0, last)) if len(last) else None
        return self._drawn(logits, chunks, scores)

    def _score(self, hidden: torch.Tensor, chunks: Chunks, number: int) -> Scores:
        """Score the prompt tokens that follow those of a chunk."""
        row, begin = int(chunks.rows[number]), int(chunks.starts[number])
        wanted = min(begin + int(chunks.counts[number]), int(self._rows.prompts[row]) - 1)
        told = max(int(self._rows.alternatives[row]), NOT_ASKED + 1)
        logprobs = [np.empty(0, np.float32)]
        alternatives: tuple[Records, ...] = ()
        for start in range(begin, wanted, _SCORED_AT_ONCE):
            end = min(start + _SCORED_AT_ONCE, wanted)
            logits = self._decoder.logits(hidden[start - begin : end - begin])
            tokens = self._rows.tokens[row, start + 1 : end + 1]
            found, others = self._sampler.score(logits, tokens, told)
            logprobs.append(found)
            alternatives += others
        return Scores(np.concatenate(logprobs), alternatives)
