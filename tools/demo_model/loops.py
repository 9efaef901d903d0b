"""Windows in which passages are said again and again for no reason, and then left.

A small model that always takes the likeliest token copies what it has just written, for ever. In
these windows passages are repeated a few times: the copies bear no loss, and what truly follows
them bears more, so the model learns to leave a loop. Invariant: outside the copies a window has its
own tokens in their own order, as many as fit.
"""

from __future__ import annotations

import numpy as np

PASSAGES = 3
LONGEST_PASSAGE = 48
MOST_COPIES = 6
LEAVING_WEIGHT = 10.0


def repeat_passages(window: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Repeat up to `PASSAGES` passages of `window`, one in each part of it.

    Args:
        window: [tokens].
        rng: chooses where, how long and how often.

    Returns:
        The new window, as long as the old one, and the weight of each of its tokens in the loss,
        [tokens] float32: 0 for copies, `LEAVING_WEIGHT` for the first token after them, else 1.
    """
    tokens, weights = [], []
    for part in np.array_split(window, PASSAGES):
        length = int(rng.integers(1, min(LONGEST_PASSAGE, len(part) - 1) + 1))
        end = int(rng.integers(length, len(part)))
        copies = np.tile(part[end - length : end], int(rng.integers(1, MOST_COPIES + 1)))
        rest = np.ones(len(part) - end, np.float32)
        rest[0] = LEAVING_WEIGHT
        tokens += [part[:end], copies, part[end:]]
        weights += [np.ones(end, np.float32), np.zeros(len(copies), np.float32), rest]
    kept = slice(0, len(window))
    return np.concatenate(tokens)[kept], np.concatenate(weights)[kept]
