"""Steps on a device that computes while the host plans the next: a launch never waits for it.

A row of the slot table is a sequence's whole state on the device, so a step is one upload of what
is new, a queue of kernels, and one download of what was drawn. Owned by the engine thread.
Invariant: all device work is in one stream, in the order of the launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from kernels.ops import AttentionChunks
from kernels.triton.sampling.log_probabilities import LogProbabilities
from model_svc.engine.step_transfer import Downloads, Readback, Uploads
from model_svc.models.batch import Batch, Finals
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.sampling.cpu_sampler import Records, alternative_records
from model_svc.sampling.device_rows import DeviceRows, EditedDraws, asked_of
from model_svc.sampling.draws import NOT_ASKED
from model_svc.sampling.rows import SamplingRows
from model_svc.scheduling.step import Chunks, Int64s, Scores, StepInput, StepOutput

_NONE = np.empty(0, np.int64)
_SCORED_AT_ONCE = 64
"""Rows of logits that a prompt is scored by at once: float32 over the whole vocabulary."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A launched step.

    Attributes:
        readback: tokens, then log-probabilities if any are asked for, then those of each score.
        rows: [draws], of the draws.
        generations: [draws], of their rows.
        asked: [draws] alternatives, None where no log-probability is.
        scored: for each scored chunk the alternatives told, and how many tokens it scores.
    """

    readback: Readback
    rows: Int64s
    generations: Int64s
    asked: npt.NDArray[np.int32] | None
    scored: list[tuple[int, int]]


class _Sent(NamedTuple):
    """A step's upload on the device, all int64, and what the host knows of its draws."""

    owners: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    token_ids: torch.Tensor
    """Of the tokens behind the decodes."""
    rows: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor
    drawing: torch.Tensor
    """Chunks that are drawn after."""
    logit_rows: torch.Tensor
    """Row of logits of each draw."""
    draw_rows: torch.Tensor
    asked: torch.Tensor
    scored_tokens: torch.Tensor
    edited: list[torch.Tensor]
    choices: npt.NDArray[np.void]
    asked_alternatives: npt.NDArray[np.int32] | None


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of prompts: parts to download, and (alternatives, tokens) of each scored chunk."""

    parts: list[torch.Tensor]
    chunks: list[tuple[int, int]]


class DeviceRunner:
    """A model, its KV cache and its rows on a device."""

    depth = 1

    def __init__(
        self, decoder: Decoder, kv: KvCache, rows: SamplingRows, state: DeviceRows
    ) -> None:
        """Compute with `decoder` over `kv`; `state` mirrors `rows`, those of the scheduler."""
        self._decoder = decoder
        self._kv = kv
        self._rows = rows
        self._state = state
        self._generation = np.zeros(len(rows.tokens), np.int64)
        self._serial = np.zeros(len(rows.tokens), np.bool_)
        self._slot_table = torch.zeros(rows.tokens.shape, dtype=torch.int32, device=kv.device)
        self._uploads = Uploads(kv.device, self.depth + 2)
        self._downloads = Downloads(kv.device, self.depth + 2)

    @torch.inference_mode()
    def launch(self, step: StepInput) -> object:
        """Queue `step` on the device.

        Raises:
            ValueError: it verifies proposed tokens.
        """
        chunks = step.chunks
        if len(chunks.drafts):
            raise ValueError("proposed tokens cannot be verified on this device")
        for one in step.admissions:
            self._rows.admit(one.row, one.prompt, one.output, one.candidate, one.sampling)
            self._generation[one.row] += 1
            self._serial[one.row] = one.sampling.bad_endings is not None
        sent = self._upload(step)
        batch = self._batch(chunks, sent)
        finals = None if len(step.scored) else self._finals(batch, sent.drawing)
        hidden = self._decoder.forward(batch, self._kv, finals)
        scores = self._score(hidden, step, sent.scored_tokens)
        if len(step.scored):
            rows = batch.attention.q_starts[sent.drawing + 1] - 1
            hidden = hidden.index_select(0, rows)
        tokens, told = self._draw(hidden, chunks, sent)
        self._rows.promise(chunks.draw_rows)
        return _Ticket(
            self._downloads.receive([tokens, *told, *scores.parts]),
            chunks.draw_rows,
            self._generation[chunks.draw_rows],
            sent.asked_alternatives,
            scores.chunks,
        )

    def collect(self, ticket: object) -> StepOutput:
        """Wait for the download of a step."""
        assert isinstance(ticket, _Ticket)
        tokens, *told = ticket.readback.wait()
        logprobs = np.full(len(tokens), np.nan, np.float32)
        alternatives: tuple[Records, ...] = ()
        if ticket.asked is not None:
            logprobs, alternatives = _told(told[:3], ticket.asked)
            told = told[3:]
        self._keep_serial(ticket, tokens)
        scores = []
        for alternatives_told, count in ticket.scored:
            scores.append(_scores(told, alternatives_told, count))
        return StepOutput(tokens, logprobs, alternatives, scores=tuple(scores))

    def _keep_serial(self, ticket: _Ticket, tokens: npt.NDArray[np.int32]) -> None:
        """Note on the host the tokens of sequences whose next draw the host has a hand in."""
        rows = ticket.rows
        mine = self._serial[rows] & (self._generation[rows] == ticket.generations)
        for number in np.flatnonzero(mine).tolist():
            self._rows.keep(int(rows[number]), int(tokens[number]))

    def _upload(self, step: StepInput) -> _Sent:
        """Send all that the step needs, and write the rows of its admissions."""
        chunks = step.chunks
        layout = _lay_out(step, self._rows)
        drawing, logit_rows = np.unique(chunks.draw_chunks, return_inverse=True)
        draws = self._rows.draws(chunks.draw_rows)
        asked = asked_of(draws.choices)
        edited = EditedDraws.of(len(draws), dict(draws.edited)).parts if draws.edited else []
        admitted: list[Int64s] = []
        if step.admissions:
            admitted = self._state.admitted([one.row for one in step.admissions]).parts
        parts = [
            *layout,
            chunks.rows,
            chunks.starts,
            chunks.counts,
            drawing,
            logit_rows,
            chunks.draw_rows,
            _NONE if asked is None else asked.astype(np.int64),
            np.concatenate([_NONE, *(self._scored_tokens(chunks, i) for i in step.scored)]),
        ]
        sent = self._uploads.send([*parts, *admitted, *edited])
        if admitted:
            self._state.write(sent[len(parts) : len(parts) + len(admitted)])
        edits = sent[len(parts) + len(admitted) :]
        return _Sent._make([*sent[: len(parts)], edits, draws.choices, asked])

    def _scored_tokens(self, chunks: Chunks, number: int) -> Int64s:
        """The prompt tokens that follow those of a chunk."""
        row, begin = int(chunks.rows[number]), int(chunks.starts[number])
        end = min(begin + int(chunks.counts[number]), int(self._rows.prompts[row]) - 1)
        return self._rows.tokens[row, begin + 1 : end + 1].astype(np.int64)

    def _batch(self, chunks: Chunks, sent: _Sent) -> Batch:
        """The step's tokens, once its slots are in the table."""
        self._slot_table[sent.owners, sent.positions] = sent.slots.to(torch.int32)
        tokens, decodes = len(chunks.slots), chunks.num_decodes
        last = self._state.last_tokens[sent.rows[:decodes]]
        zero = torch.zeros(1, dtype=torch.int64, device=self._kv.device)
        return Batch(
            token_ids=torch.cat([last, sent.token_ids]),
            positions=sent.positions[:tokens],
            slots=sent.slots[:tokens],
            attention=AttentionChunks(
                slot_table=self._slot_table,
                rows=sent.rows,
                q_starts=torch.cat([zero, sent.counts.cumsum(0)]),
                kv_lengths=sent.starts + sent.counts,
                num_decodes=decodes,
                num_tokens=tokens,
            ),
        )

    def _finals(self, batch: Batch, drawing: torch.Tensor) -> Finals | None:
        """The last tokens of the chunks `drawing`, of one at least; None where that is all."""
        chunks, count = batch.attention, len(drawing)
        if count == len(batch.token_ids):
            return None
        if not count:
            drawing, count = torch.zeros(1, dtype=torch.int64, device=self._kv.device), 1
        attention = AttentionChunks(
            slot_table=chunks.slot_table,
            rows=chunks.rows[drawing],
            q_starts=torch.arange(count + 1, device=self._kv.device),
            kv_lengths=chunks.kv_lengths[drawing],
            num_decodes=count,
            num_tokens=count,
        )
        return Finals(chunks.q_starts[drawing + 1] - 1, attention)

    def _draw(
        self, hidden: torch.Tensor, chunks: Chunks, sent: _Sent
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Tokens of the draws, and what is told of their log-probabilities."""
        if not len(sent.drawing):
            return torch.empty(0, dtype=torch.int32, device=self._kv.device), []
        logits = self._decoder.logits(hidden)
        if len(sent.draw_rows) > len(sent.drawing):
            logits = logits.index_select(0, sent.logit_rows)
        penalised = self._rows.penalised(chunks.draw_rows)
        tokens = self._state.draw(logits, sent.draw_rows, sent.choices, sent.edited, penalised)
        if sent.asked_alternatives is None:
            return tokens, []
        return tokens, _parts(self._state.read(logits, tokens, sent.asked.to(torch.int32)))

    def _score(self, hidden: torch.Tensor, step: StepInput, tokens: torch.Tensor) -> _Scored:
        """Score the prompt `tokens` that follow those of the step's scored chunks."""
        chunks, scored = step.chunks, _Scored([], [])
        firsts = np.cumsum(chunks.counts) - chunks.counts
        at = 0
        for number in step.scored.tolist():
            count, first = len(self._scored_tokens(chunks, number)), int(firsts[number])
            told = max(int(self._rows.alternatives[chunks.rows[number]]), NOT_ASKED + 1)
            scored.chunks.append((told, count))
            for start in range(0, count, _SCORED_AT_ONCE):
                end = min(start + _SCORED_AT_ONCE, count)
                own = tokens[at + start : at + end].to(torch.int32)
                logits = self._decoder.logits(hidden[first + start : first + end])
                scored.parts.extend(
                    _parts(self._state.read(logits, own, torch.full_like(own, told)))
                )
            at += count
        return scored


def _lay_out(step: StepInput, rows: SamplingRows) -> tuple[Int64s, Int64s, Int64s, Int64s]:
    """Row, position and slot of each token and, behind them, of each shared position.

    The last part are the ids of the tokens behind the decodes.
    """
    chunks, decodes = step.chunks, step.chunks.num_decodes
    firsts = np.cumsum(chunks.counts) - chunks.counts
    owners = np.repeat(chunks.rows, chunks.counts)
    positions = np.arange(len(owners)) + np.repeat(chunks.starts - firsts, chunks.counts)
    token_ids = rows.tokens[owners[decodes:], positions[decodes:]].astype(np.int64)
    shared = [one for one in step.admissions if len(one.shared_slots)]
    return (
        np.concatenate([owners, *(np.full(len(one.shared_slots), one.row) for one in shared)]),
        np.concatenate([positions, *(np.arange(len(one.shared_slots)) for one in shared)]),
        np.concatenate([chunks.slots, *(one.shared_slots for one in shared)]).astype(np.int64),
        token_ids,
    )


def _parts(told: LogProbabilities) -> list[torch.Tensor]:
    return [told.chosen, told.ids, told.likely]


def _told(
    parts: list[npt.NDArray[np.int32]], asked: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float32], tuple[Records, ...]]:
    """Log-probabilities, and records of as many alternatives as each row is asked for."""
    chosen, ids, likely = parts
    logprobs, likely_floats = chosen.view(np.float32), likely.view(np.float32)
    counts = np.minimum(np.maximum(asked, 0), (ids >= 0).sum(axis=1)).tolist()
    records = tuple(
        alternative_records(ids[row, :count], likely_floats[row, :count])
        for row, count in enumerate(counts)
    )
    return logprobs, records


def _scores(parts: list[npt.NDArray[np.int32]], told: int, count: int) -> Scores:
    """The scores of `count` tokens, taken from the front of `parts`."""
    logprobs = [np.empty(0, np.float32)]
    alternatives: tuple[Records, ...] = ()
    while sum(map(len, logprobs)) < count:
        own = parts[:3]
        del parts[:3]
        found, others = _told(own, np.full(len(own[0]), told, np.int32))
        logprobs.append(found)
        alternatives += others
    return Scores(np.concatenate(logprobs), alternatives)
