"""Verification of proposed tokens: draw after each as long as the draws agree with them.

Invariant: the tokens are those that single steps would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from model_svc.sampling.cpu_sampler import Drawn, Records
from model_svc.sampling.draws import Draws
from model_svc.sampling.rows import Int64s, SamplingRows
from model_svc.scheduling.step import Chunks, Kind, StepOutput


def verify(
    chunks: Chunks,
    logits_of: Callable[[Int64s], torch.Tensor],
    rows: SamplingRows,
    sample: Callable[[torch.Tensor, Draws], Drawn],
) -> StepOutput:
    """Draw the tokens of a step some of whose chunks are verifications.

    Args:
        chunks: of the step.
        logits_of: gives logits of the step's tokens, by their numbers, [tokens, vocab].
        rows: advanced by what is drawn.
        sample: draws one token for each row of logits.
    """
    ends = np.cumsum(chunks.counts)
    firsts = ends - chunks.counts
    verified = chunks.kinds == Kind.VERIFY
    # Number of the first proposed token of each verification, among all proposed ones.
    proposed = np.cumsum(np.where(verified, chunks.counts - 1, 0))
    proposed -= np.where(verified, chunks.counts - 1, 0)
    at = np.where(verified, firsts, ends - 1)[chunks.draw_chunks]
    found: list[list[tuple[int, float, Records | None]]] = [[] for _ in at]
    active, turn = np.arange(len(at)), 0
    while len(active):
        drawn = sample(logits_of(at[active] + turn), rows.draws(chunks.draw_rows[active]))
        rows.advance(chunks.draw_rows[active], drawn.tokens)
        others = drawn.alternatives or (None,) * len(active)
        told = zip(active.tolist(), drawn.tokens, drawn.logprobs, others, strict=True)
        for draw, token, logprob, records in told:
            found[draw].append((int(token), float(logprob), records))
        owners = chunks.draw_chunks[active]
        more = verified[owners] & (turn + 1 < chunks.counts[owners])
        places = np.where(more, proposed[owners] + turn, 0)
        agrees = more & (chunks.drafts[places] == drawn.tokens)
        active, turn = active[agrees], turn + 1
    return _output(found)


def _output(found: list[list[tuple[int, float, Records | None]]]) -> StepOutput:
    each = [one for own in found for one in own]
    alternatives = tuple(records for _, _, records in each if records is not None)
    if 0 < len(alternatives) < len(each):
        nothing = np.empty(0, alternatives[0].dtype)
        alternatives = tuple(nothing if records is None else records for _, _, records in each)
    return StepOutput(
        np.array([token for token, _, _ in each], np.int32),
        np.array([logprob for _, logprob, _ in each], np.float32),
        alternatives,
        np.array([len(own) for own in found], np.int64),
    )
