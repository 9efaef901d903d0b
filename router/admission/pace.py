"""Speed of a replica, learnt from the frames it sends. Pure: no clock, no loop, no wire.

The more rows run together, the longer each token takes. What was measured at some numbers of rows
is kept as points of a curve; between them it is interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

_LEAST_FRAMES = 4
_LEAST_S = 0.05
_MEMORY_S = 6.0  # what was measured so long before weighs less by a factor of e
_DRIFT = 0.5  # a slowdown at one number of rows is taken for half as much at the others
_MEMORY_WINDOWS = 8  # of prompts
_MEMORY_OUTPUTS = 64
_PRIOR_OUTPUT_TOKENS = 64.0
_LIKELY = 2.0  # six of seven outputs stop before twice their mean
_NEAR_BEST = 0.9
_PURE = 0.7  # part of the tokens that are outputs' where the time is taken to be theirs
_LEAST_MARGIN = 0.2
_MARGIN_RISE = 0.6  # where all requests miss their deadlines
_MEMORY_DEADLINES = 50


@dataclass(slots=True)
class _Point:
    """Measurements at one number of rows: sums over windows, older ones weighing less.

    Seconds are divided by tokens in the end only: frames that were held up come in a cluster.
    """

    rough: bool  # much of the time was that of prompts
    rows: float = 0.0  # weighed by tokens
    tokens: float = 0.0  # of each row
    seconds: float = 0.0

    @property
    def token_s(self) -> float:
        return self.seconds / self.tokens

    def take(self, rows: float, tokens: float, seconds: float) -> None:
        keep = math.exp(-seconds / _MEMORY_S)
        self.tokens = keep * self.tokens + tokens
        self.seconds = keep * self.seconds + seconds
        self.rows += (rows - self.rows) * tokens / self.tokens


class Pace:
    """Speed of one replica, and the lengths of its outputs."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
        self._missed = 0.0  # part of the deadlines of late
        self._points: dict[int, _Point] = {}
        self._curve: list[tuple[float, float]] = []  # (rows, seconds a token), by rows
        self._least: dict[int, float] = {}  # answers of `least_token_s`
        self._prompt_seconds = 0.0
        self._prompt_tokens = 0.0
        self._output_tokens = 0.0
        self._stops = 0.0
        self._since: float | None = None
        self._reset()

    @property
    def known(self) -> bool:
        """True once anything was measured."""
        return bool(self._curve)

    @property
    def rate(self) -> float:
        """Most tokens a second that were measured; 0: nothing was."""
        return max((rows / token_s for rows, token_s in self._curve), default=0.0)

    @property
    def enough_rows(self) -> int:
        """Rows beyond which the rate rises by little."""
        wanted = _NEAR_BEST * self.rate
        return next((int(rows) for rows, token_s in self._curve if rows / token_s >= wanted), 0)

    @property
    def prompt_s(self) -> float:
        """Seconds that a prompt's token takes."""
        return self._prompt_seconds / self._prompt_tokens if self._prompt_tokens else 0.0

    def token_s(self, rows: int) -> float:
        """Seconds from one token of a row to its next where `rows` run; something is known.

        More rows than were measured are taken to run no faster in sum, but for one more.
        """
        most, token_s = self._curve[-1]
        if rows > most + 1:
            return token_s * rows / most
        return self._measured(rows)

    def least_token_s(self, rows: int) -> float:
        """The same where more rows than were measured are taken to cost nothing; 0: unknown."""
        if rows not in self._least:
            self._least[rows] = self._measured(rows) if self._curve else 0.0
        return self._least[rows]

    def outputs(self, most: int, *, may_stop: bool) -> float:
        """Output tokens to be expected of a candidate that may have `most` more.

        Outputs are taken to stop at each token with the same probability, which is the number of
        stops by that of tokens after which one could have been.
        """
        return self._mean * -math.expm1(-most / self._mean) if may_stop else float(most)

    def likely_outputs(self, most: int, *, may_stop: bool) -> float:
        """Output tokens that such a candidate is unlikely to exceed."""
        return min(_LIKELY * self._mean, most) if may_stop else float(most)

    @property
    def _mean(self) -> float:
        return (self._output_tokens + _PRIOR_OUTPUT_TOKENS) / (self._stops + 1)

    def ended(self, *, stopped: bool) -> None:
        """Learn whether a candidate that could stop did."""
        keep = 1 - 1 / _MEMORY_OUTPUTS
        self._output_tokens *= keep
        self._stops = keep * self._stops + stopped

    @property
    def margin(self) -> float:
        """Part of a forecast to add to it: forecasts err, and have erred where many were late."""
        return _LEAST_MARGIN + _MARGIN_RISE * self._missed

    def deadline(self, *, met: bool) -> None:
        """Learn whether a request that was started ended before its deadline."""
        self._missed += ((not met) - self._missed) / _MEMORY_DEADLINES

    def frame(
        self, now: float, rows: int, tokens: int, prompt_tokens: int = 0, open_tokens: int = 0
    ) -> bool:
        """Learn from a frame; answer whether the speed is known better now.

        Args:
            now: when it came, in seconds.
            rows: candidates that moved.
            tokens: by how much, in all.
            prompt_tokens: prompt tokens of those whose first output this is.
            open_tokens: tokens of those that may stop by themselves.
        """
        self._output_tokens += open_tokens
        if self._since is None:
            self._since = now  # when the work on it began is not known
            return False
        self._frames += 1
        self._rows += rows
        self._tokens += tokens
        self._prompts += prompt_tokens
        seconds = now - self._since
        if self._frames < _LEAST_FRAMES or seconds < _LEAST_S:
            return False
        if learns := self._tokens > 0:
            self._learn(seconds, self._rows / self._frames)
        self._since = now
        self._reset()
        return learns

    def pause(self) -> None:
        """Take note that nothing runs, so that the next frame says nothing about speed."""
        self._since = None
        self._reset()

    def _reset(self) -> None:
        self._frames = self._rows = self._tokens = self._prompts = 0

    def _learn(self, seconds: float, rows: float) -> None:
        """Divide the time of some frames among prompts and outputs."""
        prompts, tokens = self._prompts, self._tokens
        per_row = tokens / rows
        if prompts > tokens and self.known and rows <= self._curve[-1][0] + 1:
            self._learn_prompts(max(0.0, seconds - per_row * self._measured(rows)))
            return
        purity = tokens / (tokens + prompts)
        prompts_s = self.prompt_s * prompts if self._prompt_tokens else seconds * (1 - purity)
        outputs_s = max(seconds - prompts_s, seconds * purity)
        self._learn_tokens(rows, per_row, outputs_s, rough=purity < _PURE)

    def _learn_prompts(self, seconds: float) -> None:
        keep = 1 - 1 / _MEMORY_WINDOWS
        self._prompt_seconds = keep * self._prompt_seconds + seconds
        self._prompt_tokens = keep * self._prompt_tokens + self._prompts

    def _learn_tokens(self, rows: float, tokens: float, seconds: float, *, rough: bool) -> None:
        """Learn that each of `rows` made `tokens` in `seconds`.

        What is rough gives way to what is not, and is left out beside it.
        """
        key = round(2 * math.log2(rows))
        for near in (key - 1, key, key + 1):
            if near in self._points and self._points[near].rough is not rough:
                if rough:
                    return
                del self._points[near]
        point = self._points.setdefault(key, _Point(rough))
        before = point.token_s if point.tokens else None
        point.take(rows, tokens, seconds)
        drift = 1.0 if before is None else (point.token_s / before) ** _DRIFT
        for other in self._points.values():
            if other is not point:
                other.seconds *= drift
        self._curve = _rising((point.rows, point.token_s) for point in self._points.values())
        self._least.clear()

    def _measured(self, rows: float) -> float:
        """The curve's value, beyond its ends that of its ends."""
        i = bisect_left(self._curve, (rows, 0.0))
        if i == 0:
            return self._curve[0][1]
        left, left_s = self._curve[i - 1]
        if i == len(self._curve):
            return left_s
        right, right_s = self._curve[i]
        return left_s + (right_s - left_s) * (rows - left) / (right - left)


def _rising(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points by rows; fewer rows are taken to be no slower than more were."""
    curve, least = [], math.inf
    for rows, token_s in sorted(points, reverse=True):
        least = min(least, token_s)
        curve.append((rows, least))
    return curve[::-1]
