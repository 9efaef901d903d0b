"""Sampling state of the sequences in rows, on the device, and the draws from it.

A row is written when a sequence is admitted, and advanced by each draw; the host knows a row's
parameters and its position, the device alone its last token and its history. Importing it imports
Triton. Invariant: tokens, and the ids of alternatives, are those of
`model_svc.sampling.cpu_sampler.Sampler`, bit for bit for equal logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.triton.sampling.batch import Choices, Edits, Ragged, Uses, floors
from kernels.triton.sampling.draw import draw
from kernels.triton.sampling.log_probabilities import LogProbabilities, Partials, log_probabilities
from kernels.triton.sampling.logits import note_tokens
from kernels.triton.sampling.scratch import Scratch
from model_svc.sampling.draws import NOT_ASKED
from model_svc.sampling.params import SampleInput, SamplingParams
from model_svc.sampling.rows import Int32s, Int64s, SamplingRows

_NO_IDS = np.empty(0, np.int64)
_WHOLE = ("seed", "position", "candidate", "top_k", "min_tokens")
_POSITION = 1
_FLOATS = ("top_p", "temperature", "floor", "repetition", "presence", "frequency")
_FIELDS = len(_WHOLE) + len(_FLOATS)


def _bits(values: npt.NDArray[np.float64]) -> Int64s:
    """The bits of numbers, to travel among whole ones."""
    return np.ascontiguousarray(values, np.float64).view(np.int64)


@dataclass(frozen=True, slots=True)
class AdmittedRows:
    """Rows to write, as arrays of int64 that travel in a step's upload.

    Attributes:
        rows: [admitted].
        last_tokens: [admitted], the last known token of each.
        state: [fields * admitted], `_WHOLE` and the bits of `_FLOATS`, one after the other.
        history_places: [noted], where ids and counts of histories go.
        history_ids, history_counts: [noted].
        history_lengths: [admitted].
    """

    rows: Int64s
    last_tokens: Int64s
    state: Int64s
    history_places: Int64s
    history_ids: Int64s
    history_counts: Int64s
    history_lengths: Int64s

    @property
    def parts(self) -> list[Int64s]:
        """All of it, in the order that `DeviceRows.write` takes it."""
        return [
            self.rows,
            self.last_tokens,
            self.state,
            self.history_places,
            self.history_ids,
            self.history_counts,
            self.history_lengths,
        ]


@dataclass(frozen=True, slots=True)
class EditedDraws:
    """Edits of a step's draws that the host knows, as arrays of int64 for its upload.

    Attributes:
        bias_lengths, suppressed_lengths: [draws].
        bias_ids, bias_amounts: [biased]; bits of floats.
        suppressed_ids: [suppressed].
    """

    bias_lengths: Int64s
    bias_ids: Int64s
    bias_amounts: Int64s
    suppressed_lengths: Int64s
    suppressed_ids: Int64s

    @classmethod
    def of(cls, count: int, edited: dict[int, SampleInput]) -> EditedDraws:
        """Inputs of `count` draws, by the number of the draw."""
        bias_lengths, suppressed_lengths = np.zeros((2, count), np.int64)
        ids, amounts, suppressed = [_NO_IDS], [np.empty(0)], [_NO_IDS]
        for number, one in edited.items():
            own_ids, own_amounts = one.bias
            bias_lengths[number] = len(own_ids)
            ids.append(own_ids)
            amounts.append(own_amounts.astype(np.float64))
            if one.spec.suppresses(one.position):
                suppressed_lengths[number] = len(one.spec.suppressed_ids)
                suppressed.append(np.array(one.spec.suppressed_ids, np.int64))
        return cls(
            bias_lengths,
            np.concatenate(ids),
            _bits(np.concatenate(amounts)),
            suppressed_lengths,
            np.concatenate(suppressed),
        )

    @property
    def parts(self) -> list[Int64s]:
        """All of it, in the order that `DeviceRows.draw` takes it."""
        return [
            self.bias_lengths,
            self.bias_ids,
            self.bias_amounts,
            self.suppressed_lengths,
            self.suppressed_ids,
        ]


class DeviceRows:
    """Tokens drawn last and sampling state by row; written and read in the order of launches."""

    def __init__(self, host: SamplingRows, vocab_size: int, device: torch.device) -> None:
        """Mirror `host`, which knows prompts and parameters."""
        rows, context = host.tokens.shape
        self._host = host
        self._vocab_size = vocab_size
        self._device = device
        self._capacity = context
        self.last_tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        """[rows] int64: the last known token of each."""
        self._whole = torch.zeros((len(_WHOLE), rows), dtype=torch.int64, device=device)
        self._floats = torch.zeros((len(_FLOATS), rows), dtype=torch.float64, device=device)
        self._history_ids = torch.zeros(rows * context, dtype=torch.int32, device=device)
        self._history_counts = torch.zeros(rows * context, dtype=torch.int32, device=device)
        self._history_lengths = torch.zeros(rows, dtype=torch.int32, device=device)
        self._scratch = Scratch.allocate(1, vocab_size, device)
        self._partials = Partials.allocate(1, vocab_size, device)

    def admitted(self, rows: list[int]) -> AdmittedRows:
        """The values of `rows`, which the host has admitted."""
        host, places = self._host, [_NO_IDS]
        ids, counts, lengths, states = [_NO_IDS], [_NO_IDS], [], []
        for row in rows:
            params, choice = host.params(row), host.choice(row)
            states.append(_state_of(params, choice))
            history = host.history(row)
            own_ids, own_counts = (_NO_IDS, _NO_IDS) if history is None else history.occurrences()
            places.append(row * self._capacity + np.arange(len(own_ids)))
            ids.append(own_ids.astype(np.int64))
            counts.append(own_counts.astype(np.int64))
            lengths.append(len(own_ids))
        at = np.array(rows, np.int64)
        return AdmittedRows(
            at,
            host.tokens[at, host.lengths[at] - 1].astype(np.int64),
            np.array(states, np.int64).reshape(-1, _FIELDS).T.ravel(),
            np.concatenate(places),
            np.concatenate(ids),
            np.concatenate(counts),
            np.array(lengths, np.int64),
        )

    def write(self, admitted: list[torch.Tensor]) -> None:
        """Write rows: what `AdmittedRows.parts` gave, on the device."""
        rows, last_tokens, state, places, ids, counts, lengths = admitted
        self.last_tokens[rows] = last_tokens
        fields = state.view(_FIELDS, -1)
        self._whole[:, rows] = fields[: len(_WHOLE)]
        self._floats[:, rows] = fields[len(_WHOLE) :].view(torch.float64)
        self._history_ids[places] = ids.to(torch.int32)
        self._history_counts[places] = counts.to(torch.int32)
        self._history_lengths[rows] = lengths.to(torch.int32)

    def draw(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        choices: npt.NDArray[np.void],
        edited: list[torch.Tensor],
        penalised: bool,
    ) -> torch.Tensor:
        """Draw the next token of each of `rows`, and advance them.

        Args:
            logits: [draws, vocab], floating, raw; left as they are.
            rows: [draws] int64, on the device.
            choices: [draws] of `CHOICE`, as the host knows them.
            edited: what `EditedDraws.parts` gave, on the device; empty where nothing is edited.
            penalised: whether some row has penalties.

        Returns:
            [draws] int32, on the device.
        """
        count = len(rows)
        if count > self._scratch.rows:
            most = 1 << (count - 1).bit_length()
            self._scratch = Scratch.allocate(most, self._vocab_size, self._device)
        uses = Uses.by(choices["top_k"], choices["top_p"], choices["min_p"], self._vocab_size)
        tokens = torch.empty(count, dtype=torch.int32, device=self._device)
        whole, floats = self._whole[:, rows], self._floats[:, rows]
        singles = floats.float()
        history = self._history(rows) if edited else None
        edits = None
        if history is not None:
            edits = _edits(whole, singles, edited, history)
        draw(logits, _choices(whole, floats, singles), edits, uses, self._scratch, tokens)
        self.last_tokens[rows] = tokens.to(torch.int64)
        self._whole[_POSITION, rows] = whole[_POSITION] + 1
        if penalised and history is not None:
            note_tokens(tokens, history)
            self._history_lengths[rows] = history.lengths
        return tokens

    def read(
        self, logits: torch.Tensor, tokens: torch.Tensor, asked: torch.Tensor
    ) -> LogProbabilities:
        """Log-probabilities of `tokens` [rows] int32 and as many alternatives as are `asked` for.

        Args:
            logits: [rows, vocab], raw.
            tokens: [rows] int32.
            asked: [rows] int32, `NOT_ASKED` for none.
        """
        if len(tokens) > self._partials.tops.shape[0]:
            self._partials = Partials.allocate(len(tokens), self._vocab_size, self._device)
        told = LogProbabilities.allocate(len(tokens), self._device)
        log_probabilities(logits, tokens, asked, self._partials, told)
        return told

    def _history(self, rows: torch.Tensor) -> Ragged:
        """Histories of `rows`; a row without one has a negative start."""
        lengths = self._history_lengths[rows]
        starts = torch.where(lengths > 0, rows * self._capacity, -1)
        return Ragged(starts, lengths, self._history_ids, self._history_counts)


def _state_of(params: SamplingParams, choice: np.void) -> list[int]:
    """The numbers of one row, `_WHOLE` and the bits of `_FLOATS`."""
    floats = [
        choice["top_p"],
        choice["temperature"],
        floors(np.array([choice["min_p"]]))[0],
        params.repetition_penalty,
        params.presence_penalty,
        params.frequency_penalty,
    ]
    whole = [int(choice[name].astype(np.int64)) for name in _WHOLE[:4]]
    return [*whole, params.min_tokens, *_bits(np.array(floats, np.float64)).tolist()]


def _choices(whole: torch.Tensor, floats: torch.Tensor, singles: torch.Tensor) -> Choices:
    seeds, positions, candidates, top_k, _ = whole.unbind()
    return Choices(
        temperatures=singles[1],
        seeds=seeds,
        positions=positions,
        candidates=candidates,
        top_k=top_k,
        top_p=floats[0],
        floors=singles[2],
    )


def _edits(
    whole: torch.Tensor, singles: torch.Tensor, edited: list[torch.Tensor], history: Ragged
) -> Edits:
    bias_lengths, bias_ids, bias_amounts, suppressed_lengths, suppressed_ids = edited
    return Edits(
        bias=_ragged(bias_lengths, bias_ids, bias_amounts.view(torch.float64).float()),
        history=history,
        repetition=singles[3],
        presence=singles[4],
        frequency=singles[5],
        suppressed=_ragged(suppressed_lengths, suppressed_ids, None),
        min_tokens=whole[4],
    )


def asked_of(choices: npt.NDArray[np.void]) -> Int32s | None:
    """Alternatives that each draw is asked for; None where no log-probability is asked for."""
    asked = choices["alternatives"]
    return None if (asked == NOT_ASKED).all() else np.ascontiguousarray(asked)


def _ragged(lengths: torch.Tensor, ids: torch.Tensor, amounts: torch.Tensor | None) -> Ragged:
    starts = lengths.cumsum(0) - lengths
    return Ragged(starts, lengths.to(torch.int32), ids.to(torch.int32), amounts)
