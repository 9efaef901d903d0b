"""Sampling parameters of a request, and the inputs of one draw.

Invariant: a `SampleInput` and a row of logits say everything that the row's token depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Logits = npt.NDArray[np.float32]
Bias = tuple[npt.NDArray[np.int64], Logits]
"""Ids, each once, and what to add to their logits."""

RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value >= 0, "at least 0"),
    "top_p": (lambda value: 0 < value <= 1, "in (0, 1]"),
    "min_p": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "repetition_penalty": (lambda value: value > 0, "above 0"),
    "presence_penalty": (lambda value: True, "finite"),
    "frequency_penalty": (lambda value: True, "finite"),
}
"""Checks of finite sampling parameters, and their wording."""

_SMALLEST_TEMPERATURE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request, with defaults resolved. Values are not checked here.

    Ids outside the vocabulary mean nothing in `logit_bias`, `bad_sequences`, `suppressed_ids`.

    Attributes:
        seed: key of the draws; 64 bits.
        temperature: 0 takes the likeliest token.
        top_p: 1 for no limit.
        top_k: 0 for no limit.
        min_p: 0 for no limit.
        repetition_penalty: over prompt and output, 1 for none.
        presence_penalty, frequency_penalty: over the output, 0 for none.
        logit_bias: what to add to the logits of some ids; -inf bans an id.
        bad_sequences: ids that are not written in a row; none is empty.
        logprobs: how many alternatives to tell beside each token; None for no log-probabilities.
        min_tokens: at output positions before it, `suppressed_ids` may not be drawn.
        suppressed_ids: ids that would end the output.
        bias: `logit_bias` and bad sequences of one id as arrays, ids and amounts.
        bad_endings: the longer bad sequences; None where there are none.
        plain: whether nothing but the likeliest token is ever asked for.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_sequences: tuple[tuple[int, ...], ...] = ()
    logprobs: int | None = None
    min_tokens: int = 0
    suppressed_ids: tuple[int, ...] = ()
    bias: Bias = field(init=False, repr=False, compare=False)
    bad_endings: BadEndings | None = field(init=False, repr=False, compare=False)
    plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Made once: a request may bring thousands, and every one of its steps adds them.
        single = [sequence[0] for sequence in self.bad_sequences if len(sequence) == 1]
        longer = [sequence for sequence in self.bad_sequences if len(sequence) > 1]
        biased = {**self.logit_bias, **dict.fromkeys(single, -np.inf)}
        ids = np.fromiter(biased.keys(), np.int64, len(biased))
        amounts = np.fromiter(biased.values(), np.float32, len(biased))
        object.__setattr__(self, "bias", (ids, amounts))
        object.__setattr__(self, "bad_endings", BadEndings(longer) if longer else None)
        plain = self.greedy and self.logprobs is None and not (longer or self.edits(0))
        object.__setattr__(self, "plain", plain)

    @property
    def needs_history(self) -> bool:
        """True if the draw depends on the tokens before it."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is taken; so small a temperature as float32 calls 0 is 0."""
        return self.temperature < _SMALLEST_TEMPERATURE

    def edits(self, position: int) -> bool:
        """True where logits change before the token at `position`, whatever came before."""
        return len(self.bias[0]) > 0 or self.needs_history or self.suppresses(position)

    def suppresses(self, position: int) -> bool:
        """True if some ids may not be drawn at `position`."""
        return position < self.min_tokens and bool(self.suppressed_ids)

    def suppress(self, row: Logits) -> None:
        """Make the suppressed ids impossible in `row` [vocab], in place."""
        row[[token for token in self.suppressed_ids if token < len(row)]] = -np.inf


class BadEndings:
    """Sequences of at least two ids whose last id may not follow the others."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        # As bytes, which compare at once; all are of whole ids, so what matches is aligned.
        self._by_previous: dict[int, list[tuple[bytes, int]]] = {}
        for *start, last in sequences:
            entry = np.array(start, np.int32).tobytes(), last
            self._by_previous.setdefault(start[-1], []).append(entry)

    def after(
        self, count: int, tokens: Callable[[int, int], npt.NDArray[np.int32]]
    ) -> tuple[int, ...]:
        """Find the ids that may not come next, each once.

        Args:
            count: ids so far, prompt and output; at least one.
            tokens: gives those from a position on, by the position and their number.
        """
        endings = self._by_previous.get(int(tokens(count - 1, 1)[0]))
        if endings is None:
            return ()
        longest = max(len(start) for start, _ in endings) // np.int32().itemsize
        wanted = min(longest, count)
        tail = tokens(count - wanted, wanted).tobytes()
        return tuple({last for start, last in endings if tail.endswith(start)})


class TokenHistory:
    """Distinct tokens of a sequence, and how often its output has each.

    Args:
        vocab_size: above every id.
        prompt: [tokens] int32.
        output: [tokens] int32, what is already there.
    """

    def __init__(
        self, vocab_size: int, prompt: npt.NDArray[np.int32], output: npt.NDArray[np.int32]
    ) -> None:
        ids = np.unique(np.concatenate([prompt, output]))
        self._known = len(ids)
        self._ids = np.zeros(max(64, 2 * len(ids)), np.int32)
        self._ids[: len(ids)] = ids
        self._counts = np.zeros(len(self._ids), np.int32)
        self._places = np.full(vocab_size, -1, np.int32)
        self._places[ids] = np.arange(len(ids))
        np.add.at(self._counts, self._places[output], 1)

    def append(self, token: int) -> None:
        """Note that the output goes on with `token`."""
        place = self._places[token]
        if place < 0:
            place = self._known
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._places[token] = place
            self._known += 1
        self._counts[place] += 1

    def occurrences(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Distinct ids of prompt and output, and how often the output has each.

        Both are views that the next `append` may change.
        """
        return self._ids[: self._known], self._counts[: self._known]


class SampleInput(NamedTuple):
    """One token to draw.

    Attributes:
        spec: the request's choices.
        position: of the token in the output, 0 first.
        candidate: which of the request's candidates.
        history: None only where `spec.needs_history` is false.
        banned: distinct ids that would complete a bad sequence.
    """

    spec: SamplingParams
    position: int
    candidate: int
    history: TokenHistory | None
    banned: tuple[int, ...] = ()

    @property
    def edits(self) -> bool:
        """True where the logits are changed before the draw."""
        return bool(self.banned) or self.spec.edits(self.position)

    @property
    def bias(self) -> Bias:
        """Amounts to add to the logits: the request's bias, and -inf for what is banned here."""
        if not self.banned:
            return self.spec.bias
        ids, amounts = self.spec.bias
        banned = np.array(self.banned, np.int64)
        others = ~np.isin(ids, banned)
        bans = np.full(len(banned), -np.inf, np.float32)
        return np.concatenate([ids[others], banned]), np.concatenate([amounts[others], bans])
