"""Forward passes that are captured, and those of decodes replayed at the next step of their size.

Invariant: a step's logits are the same, however it came to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from kernels.ops import Captured, Outgrown
from model_svc.models.batch import Batch, Finals
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    """A step of decodes and the batch that it reads."""

    batch: Batch
    captured: Captured


class GraphCache:
    """A decoder's steps; owned by the thread that runs them."""

    def __init__(self, decoder: Decoder, kv: KvCache) -> None:
        """Run steps of `decoder` over `kv`."""
        self._decoder = decoder
        self._kv = kv
        self._captures = True
        self._decodes: dict[tuple[int, int, int], _CapturedGraph] = {}

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
        if not self._captures:
            return self._compute(batch, finals)
        if finals is None and batch.attention.num_decodes == len(batch.token_ids):
            return self._logits_of_decodes(batch)
        captured = self._capture(batch, finals)
        return self._compute(batch, finals) if captured is None else captured.replay()

    def _logits_of_decodes(self, batch: Batch) -> torch.Tensor:
        # What was captured keeps to its number of threads, and to the table it reads.
        table = batch.attention.slot_table.data_ptr()
        key = (len(batch.token_ids), torch.get_num_threads(), table)
        kept = self._decodes.get(key)
        if kept is not None:
            kept.batch.take_numbers_of(batch)
            try:
                return kept.captured.replay()
            except Outgrown:
                del self._decodes[key]
        own = batch.with_own_numbers()
        captured = self._capture(own, None)
        if captured is None:
            return self._compute(batch, None)
        self._decodes[key] = _CapturedGraph(own, captured)
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
