"""Forward passes that are captured, and those of decodes replayed at the next step of their size.

Invariant: a step's logits are the same, however it came to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from kernels.ops import Captured, Outgrown
from model_svc.models.batch import Batch, DecodeBatch, Finals
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache


@dataclass(frozen=True, slots=True)
class _CapturedDecodes:
    """A captured step and the batch that it reads."""

    decodes: DecodeBatch
    captured: Captured


class GraphCache:
    """A decoder's steps; owned by the thread that runs them."""

    def __init__(self, decoder: Decoder, kv: KvCache, slot_table: npt.NDArray[np.int32]) -> None:
        """Run steps of `decoder` over `kv`; decodes have their slots in `slot_table`."""
        self._decoder = decoder
        self._kv = kv
        self._slot_table = slot_table
        self._captures = True
        self._decodes: dict[tuple[int, int], _CapturedDecodes] = {}

    def advance(self, batch: Batch) -> None:
        """Run a step that nothing is drawn from; caches are all that it leaves behind."""
        # One row is computed to the end all the same.
        finals = batch.finals([0])
        captured = self._capture(batch, finals, scored=False)
        if captured is None:
            self._decoder.forward(batch, self._kv, finals)
        else:
            captured.replay()

    def logits(self, batch: Batch, finals: Finals | None) -> torch.Tensor:
        """Run a step.

        Args:
            batch: what to compute.
            finals: the tokens that logits are wanted for; None for all.

        Returns:
            [tokens or finals, vocab], good until the next step, in whatever dtype they were
            computed.
        """
        captured = self._capture(batch, finals)
        return self._compute(batch, finals) if captured is None else captured.replay()

    def decode(
        self,
        token_ids: npt.NDArray[np.integer],
        rows: npt.NDArray[np.integer],
        positions: npt.NDArray[np.integer],
        slots: npt.NDArray[np.integer],
    ) -> torch.Tensor:
        """Run a step of decodes, each given as [decodes]; logits [decodes, vocab], good as above.

        The slot table holds `slots` already.
        """
        # A captured step keeps to its number of threads.
        key = (len(token_ids), torch.get_num_threads())
        kept = self._decodes.get(key)
        if kept is not None:
            kept.decodes.write(token_ids, rows, positions, slots)
            try:
                return kept.captured.replay()
            except Outgrown:
                del self._decodes[key]
        decodes = DecodeBatch(len(token_ids), self._slot_table)
        decodes.write(token_ids, rows, positions, slots)
        captured = self._capture(decodes.batch, None)
        if captured is None:
            return self._compute(decodes.batch, None)
        self._decodes[key] = _CapturedDecodes(decodes, captured)
        return captured.replay()

    def _capture(
        self, batch: Batch, finals: Finals | None, *, scored: bool = True
    ) -> Captured | None:
        """Capture a step; once that was not possible, it is not tried again."""
        if not self._captures:
            return None
        captured = self._decoder.capture(batch, self._kv, finals, scored=scored)
        self._captures = captured is not None
        return captured

    def _compute(self, batch: Batch, finals: Finals | None) -> torch.Tensor:
        return self._decoder.logits(self._decoder.forward(batch, self._kv, finals))
