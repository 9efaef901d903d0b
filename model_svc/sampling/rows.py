"""Sampling state of the sequences in rows, on the host: parameters, positions and histories.

Invariant: a row's draw depends on nothing but its logits and its row here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from model_svc.sampling.draws import CHOICE, NOT_ASKED, Draws, choice_of
from model_svc.sampling.params import SampleInput, SamplingParams, TokenHistory
from model_svc.sampling.row_index import RecordRows, index_of

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]


class SamplingRows:
    """Tokens and sampling state by row."""

    def __init__(self, rows: int, context: int, vocab_size: int) -> None:
        """Have room for `rows` sequences of at most `context` tokens."""
        self._vocab_size = vocab_size
        self._choices = RecordRows(rows, CHOICE)
        self._params: list[SamplingParams | None] = [None] * rows
        self._histories: list[TokenHistory | None] = [None] * rows
        self._noting: set[int] = set()
        self._editing: set[int] = set()
        self.tokens = np.zeros((rows, context), np.int32)
        """Tokens known, prompt and output; [rows, context]."""
        self.lengths = np.zeros(rows, np.int64)
        """[rows] tokens known."""
        self.prompts = np.zeros(rows, np.int64)
        """[rows] tokens of the prompt."""
        self.alternatives = np.zeros(rows, np.int32)
        """[rows] alternatives beside each log-probability; `NOT_ASKED`: no log-probabilities."""

    def admit(
        self, row: int, prompt: Int32s, output: Int32s, candidate: int, params: SamplingParams
    ) -> None:
        """Begin a sequence in `row`: see `model_svc.scheduling.step.Admission`."""
        known = len(prompt) + len(output)
        self.tokens[row, : len(prompt)] = prompt
        self.tokens[row, len(prompt) : known] = output
        self.lengths[row] = known
        self.prompts[row] = len(prompt)
        self.alternatives[row] = NOT_ASKED if params.logprobs is None else params.logprobs
        self._choices.records[row] = choice_of(params, len(output), candidate)
        self._params[row] = params
        _put(self._noting, row, params.needs_history)
        _put(self._editing, row, bool(self._choices.records[row]["may_edit"]))
        self._histories[row] = (
            TokenHistory(self._vocab_size, prompt, output) if params.needs_history else None
        )

    def params(self, row: int) -> SamplingParams:
        """Sampling parameters of the sequence in `row`."""
        params = self._params[row]
        assert params is not None
        return params

    def choice(self, row: int) -> np.void:
        """The record of `CHOICE` of the next draw of `row`."""
        record: np.void = self._choices.records[row]
        return record

    def history(self, row: int) -> TokenHistory | None:
        """The history of the sequence in `row`, None where no penalty needs one."""
        return self._histories[row]

    def penalised(self, rows: Int64s) -> bool:
        """Tell if a history is kept for some of `rows`."""
        return not self._noting.isdisjoint(rows.tolist())

    def draws(self, rows: Int64s) -> Draws:
        """The next draw of each of `rows`."""
        choices = self._choices.copy(rows)
        edited = {}
        if self._editing:
            for number, row in enumerate(rows.tolist()):
                if row in self._editing and (draw := self._input(row)).edits:
                    edited[number] = draw
        return Draws(choices, edited)

    def promise(self, rows: Int64s) -> None:
        """Count a draw of each of `rows` whose token is not known yet."""
        self._choices.records["position"][rows] += 1

    def keep(self, row: int, token: int) -> None:
        """Append a token that was promised for `row`."""
        self.tokens[row, self.lengths[row]] = token
        self.lengths[row] += 1

    def advance(self, rows: Int64s, tokens: Int32s) -> None:
        """Append a drawn token to each of `rows`."""
        index = index_of(rows)
        self.tokens[rows, self.lengths[index]] = tokens
        self.lengths[index] += 1
        self._choices.records["position"][index] += 1
        if self._noting:
            for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
                if row in self._noting:
                    history = self._histories[row]
                    assert history is not None
                    history.append(token)

    def _input(self, row: int) -> SampleInput:
        params, choice = self.params(row), self._choices.records[row]
        banned: tuple[int, ...] = ()
        if params.bad_endings is not None:
            banned = params.bad_endings.after(int(self.lengths[row]), self._stretch(row))
        position, candidate = int(choice["position"]), int(choice["candidate"])
        return SampleInput(params, position, candidate, self._histories[row], banned)

    def _stretch(self, row: int) -> Callable[[int, int], Int32s]:
        return lambda start, count: self.tokens[row, start : start + count]


def _put(rows: set[int], row: int, inside: bool) -> None:
    """Have `row` among `rows` or not."""
    if inside:
        rows.add(row)
    else:
        rows.discard(row)
