"""The part of a candidate that its router has not received yet.

A slow reader gets it all in one delta; only a delta that would grow too large is sent in parts:
first scores of the prompt, then ids, and with the last of the ids, never later, the text and the
ending. So a reader of all ids knows their ending, and no text is sent before its ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from protos import detokenizer_pb2, generation_pb2

# Positions at most in one delta; each alternative in a position's place counts as one more.
MOST_POSITIONS = 4096

Alternatives = Sequence[tuple[int, float]]
Score = tuple[int, float, Alternatives]
"""A token, its log-probability, and those of the likeliest tokens in its place."""

_UNFINISHED = generation_pb2.FINISH_REASON_UNSPECIFIED


class PendingDelta:
    """The next delta of one candidate.

    Attributes:
        position: output position of the first id.
        ids: output ids in order of position.
        scores: one per id where log-probabilities are wanted, else none.
        text: parts of the text.
        prompt_position: prompt position of the first of `prompt_scores`.
        prompt_scores: scores of the prompt in order of position.
        finish: why the candidate ended, where it did.
        matched: the stop string or the id that ended it.
    """

    __slots__ = (
        "finish",
        "ids",
        "matched",
        "position",
        "prompt_position",
        "prompt_scores",
        "scores",
        "text",
    )

    def __init__(self, position: int = 0) -> None:
        self.position = position
        self.ids: list[int] = []
        self.scores: list[Score] = []
        self.text: list[str] = []
        self.prompt_position = 0
        self.prompt_scores: list[Score] = []
        self.finish: generation_pb2.FinishReason.ValueType = _UNFINISHED
        self.matched: str | int | None = None

    def __bool__(self) -> bool:
        return bool(self.ids or self.text or self.prompt_scores or self.finish)

    def move_into(self, delta: detokenizer_pb2.TextDelta, piece: Callable[[int], bytes]) -> int:
        """Move it, or the next part of it, into `delta`.

        Args:
            delta: names its candidate and nothing else.
            piece: the bytes of an id.

        Returns:
            The positions written, alternatives counted too.
        """
        delta.position = self.position
        written = 0
        if self.prompt_scores:
            written = self._move_prompt(delta, piece)
        if not self.prompt_scores:
            written += self._move_ids(delta, piece)
        if not (self.ids or self.prompt_scores):
            self._move_text(delta)
        return written

    def _move_ids(self, delta: detokenizer_pb2.TextDelta, piece: Callable[[int], bytes]) -> int:
        ids, scores = self.ids, self.scores
        each = 1 + len(scores[0][2]) if scores else 1
        most = max(1, MOST_POSITIONS // each)
        self.ids, self.scores = ids[most:], scores[most:]
        delta.token_ids.extend(ids[:most])
        moved = len(ids) - len(self.ids)
        self.position += moved
        for score in scores[:most]:
            _write(delta.logprobs.add(), score, piece)
        return moved * each

    def _move_prompt(self, delta: detokenizer_pb2.TextDelta, piece: Callable[[int], bytes]) -> int:
        delta.prompt_position = self.prompt_position
        scores = self.prompt_scores
        each = 1 + len(scores[-1][2])  # the first of a prompt has no alternatives
        most = max(1, MOST_POSITIONS // each)
        self.prompt_scores = scores[most:]
        moved = len(scores) - len(self.prompt_scores)
        self.prompt_position += moved
        for score in scores[:most]:
            _write(delta.prompt_logprobs.add(), score, piece)
        return moved * each

    def _move_text(self, delta: detokenizer_pb2.TextDelta) -> None:
        if self.text:
            delta.text = "".join(self.text)
            self.text = []
        if self.finish:
            delta.finish_reason = self.finish
            self.finish = _UNFINISHED
            if isinstance(self.matched, str):
                delta.matched_stop = self.matched
            elif self.matched is not None:
                delta.matched_token_id = self.matched


def _write(
    target: generation_pb2.TokenLogprob, score: Score, piece: Callable[[int], bytes]
) -> None:
    target.token_id, target.logprob, alternatives = score
    target.token = piece(target.token_id)
    for token_id, logprob in alternatives:
        target.top.add(token_id=token_id, token=piece(token_id), logprob=logprob)
