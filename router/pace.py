"""How fast a replica runs, learnt from the frames it sends. Pure: no clock, no loop, no wire.

The more rows run together, the longer each token takes. What was measured at some numbers of rows
is kept as points of a curve; between them it is interpolated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

_LEAST_FRAMES = 4
_LEAST_S = 0.05
_MEMORY_S = 2.0  # a point forgets what was measured so long before
_MEMORY_ELSEWHERE_S = 10.0  # a slowdown at one number of rows is likely one at others
_MEMORY_WINDOWS = 8  # of prompts
_MEMORY_OUTPUTS = 64
_MOST_CHANGE = 2.0
_PRIOR_OUTPUT_TOKENS = 256.0
_NEAR_BEST = 0.9


@dataclass(slots=True)
class _Point:
    """What was measured about one number of rows."""

    rows: float
    token_s: float
    seconds: float = 0.0

    def take(self, rows: float, token_s: float, seconds: float) -> None:
        self.seconds = min(self.seconds + seconds, _MEMORY_S)
        gain = min(1.0, seconds / self.seconds)
        self.rows += gain * (rows - self.rows)
        self.token_s += gain * (token_s - self.token_s)


class Pace:
    """Speed of one replica, and the lengths of its outputs."""

    def __init__(self) -> None:
        """Begin with nothing measured."""
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
        """Whether anything was measured."""
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

        Outputs are taken to stop at each token with the same probability, which is their number
        of stops by their number of tokens.
        """
        if not may_stop:
            return float(most)
        mean = (self._output_tokens + _PRIOR_OUTPUT_TOKENS) / (self._stops + 1)
        return mean * -math.expm1(-most / mean)

    def ended(self, tokens: int, *, stopped: bool) -> None:
        """Learn from the output of a candidate that could stop, and whether it did."""
        keep = 1 - 1 / _MEMORY_OUTPUTS
        self._output_tokens = keep * self._output_tokens + tokens
        self._stops = keep * self._stops + stopped

    def frame(self, now: float, rows: int, tokens: int, prompt_tokens: int) -> bool:
        """Learn from a frame; answer whether the speed is known better now.

        Args:
            now: when it came, in seconds.
            rows: candidates that moved.
            tokens: by how much, in all.
            prompt_tokens: prompt tokens of those whose first output this is.
        """
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
        per_row = self._tokens / rows
        if self._prompts <= self._tokens:
            prompts_s = min(self.prompt_s * self._prompts, seconds / 2)
            self._learn_tokens(rows, (seconds - prompts_s) / per_row, seconds)
        elif self.known:
            self._learn_prompts(max(0.0, seconds - per_row * self._measured(rows)))
        else:  # a token is a token
            prompts_s = seconds * self._prompts / (self._prompts + self._tokens)
            self._learn_prompts(prompts_s)
            self._learn_tokens(rows, (seconds - prompts_s) / per_row, seconds)

    def _learn_prompts(self, seconds: float) -> None:
        keep = 1 - 1 / _MEMORY_WINDOWS
        self._prompt_seconds = keep * self._prompt_seconds + seconds
        self._prompt_tokens = keep * self._prompt_tokens + self._prompts

    def _learn_tokens(self, rows: float, token_s: float, seconds: float) -> None:
        key = round(2 * math.log2(rows))
        point = self._points.get(key)
        if point is None:
            point = self._points[key] = _Point(rows, token_s)
        else:
            before = self._measured(rows)
            change = min(max(token_s / before, 1 / _MOST_CHANGE), _MOST_CHANGE)
            token_s = before * change
            drift = change ** min(1.0, seconds / _MEMORY_ELSEWHERE_S)
            for other in self._points.values():
                if other is not point:
                    other.token_s *= drift
        point.take(rows, token_s, seconds)
        self._curve = sorted((point.rows, point.token_s) for point in self._points.values())
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
