"""An engine step as values: arrays and tuples that name rows, and travel as bytes.

A runner keeps the tokens and the sampling state of each row from its admission on, so a step names
rows and brings no token that the runner has drawn itself. Invariant: `decode(encode(x)) == x`, and
a runner that is given equal steps from its start on gives equal outputs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from model_svc.sampling.params import SamplingParams

Int32s = npt.NDArray[np.int32]
Int64s = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]


class Kind(enum.IntEnum):
    """Kinds of chunks, in the order that a step has them."""

    DECODE = 0
    """The last known token of a sequence."""
    VERIFY = 1
    """The last known token and proposed ones; the runner draws after each as long as they agree."""
    PREFILL = 2
    """Tokens known from the admission."""


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class Chunks:
    """Tokens that a step computes.

    A chunk is a run of one sequence's tokens. Decodes come first, then verifications, then
    prefills.

    Attributes:
        kinds: [chunks] uint8, of `Kind`.
        rows: [chunks] int64, each once.
        starts: [chunks] int64, position of the first token.
        counts: [chunks] int64, tokens.
        slots: [tokens] int32, where K and V of each token go.
        drafts: [drafted] int32, proposed tokens: those of each verification after its first token.
        draw_chunks: [draws] int64, chunk whose last token the next is drawn after.
        draw_rows: [draws] int64, row that the token is drawn for, each once.
    """

    kinds: npt.NDArray[np.uint8]
    rows: Int64s
    starts: Int64s
    counts: Int64s
    slots: Int32s
    drafts: Int32s
    draw_chunks: Int64s
    draw_rows: Int64s

    @property
    def num_decodes(self) -> int:
        """Chunks in front that are decodes."""
        return len(self.kinds) - int(np.count_nonzero(self.kinds))

    @property
    def all_decoded_and_drawn(self) -> bool:
        """True if each chunk is a decode and drawn after once, in order."""
        if self.kinds.any():
            return False
        if self.draw_rows is self.rows:
            return True
        return np.array_equal(self.draw_chunks, np.arange(len(self.rows)))


@dataclass(frozen=True, slots=True, eq=False)
class Admission:
    """A sequence that is given a row; it stays there until another is admitted to the row.

    Attributes:
        row: the row.
        sequence: id of the sequence, for logs.
        prompt: [prompt] int32.
        output: [output] int32, tokens drawn before, of all attempts.
        shared_slots: [shared] int32, slots of its first positions, computed for another row.
        candidate: index of the candidate, part of its draws' key.
        sampling: how its tokens are drawn.
    """

    row: int
    sequence: int
    prompt: Int32s
    output: Int32s
    shared_slots: Int32s
    candidate: int
    sampling: SamplingParams


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class StepInput:
    """One step.

    Attributes:
        admissions: rows that change hands, before anything is computed.
        chunks: what is computed.
        scored: [scored] int64, chunks whose prompt tokens are scored.
    """

    admissions: tuple[Admission, ...]
    chunks: Chunks
    scored: Int64s


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Log-probabilities of the prompt tokens that follow the tokens of one chunk.

    Attributes:
        logprobs: [scored] float32.
        alternatives: for each records of `protos.token_frame.ALTERNATIVE`.
    """

    logprobs: npt.NDArray[np.float32]
    alternatives: tuple[Records, ...]


@dataclass(slots=True, eq=False)  # one for each step: frozen ones are slow to make
class StepOutput:
    """Outcome of one step.

    Attributes:
        tokens: [drawn] int32, in the order of the draws; several of a draw lie side by side.
        logprobs: [drawn] float32; NaN where not asked for.
        alternatives: for each token records of `protos.token_frame.ALTERNATIVE`; empty where no
            token has any.
        counts: [draws] int64, tokens of each draw; None: one of each.
        scores: for each scored chunk.
    """

    tokens: Int32s
    logprobs: npt.NDArray[np.float32]
    alternatives: tuple[Records, ...] = ()
    counts: Int64s | None = None
    scores: tuple[Scores, ...] = field(default=())
