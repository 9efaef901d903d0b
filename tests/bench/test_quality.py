"""The cost of quantisation is what a plain formula says, and the page compares with the first."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import write_checkpoint

from bench.quality import Form, Score, Text, score, table
from kernels.reference.operations import reference
from model_svc.models.batch import Batch
from model_svc.models.decoder import Decoder
from model_svc.models.kv_cache import KvCache
from model_svc.weights.checkpoint import read_checkpoint
from model_svc.weights.loader import load_weights

WHOLE = Form(torch.float32, "none")


def test_the_score_is_the_mean_loss_of_each_window_by_itself(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_checkpoint(tmp_path, "llama"))
    ids = torch.randint(3, 250, (11, 17))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    ops = reference
    weights = load_weights(checkpoint, ops, torch.float64)
    decoder = Decoder(checkpoint.spec, weights, ops, torch.float64)
    nats = 0.0
    for own, wanted in zip(inputs, targets, strict=True):
        zero, kv = np.zeros(1, np.int64), KvCache(checkpoint.spec, 16, torch.float64)
        table_ = np.arange(16, dtype=np.int32)[None]
        batch = Batch.build(own.numpy(), zero, zero, np.array([16]), table_)
        odds = decoder.logits(decoder.forward(batch, kv)).double().log_softmax(dim=1)
        nats -= float(odds[torch.arange(16), wanted].sum())

    got = score(checkpoint, WHOLE, Text(inputs, targets, 500))

    assert got.nats_per_token == pytest.approx(nats / (11 * 16), rel=1e-5)
    assert got.bits_per_byte == pytest.approx(nats / math.log(2) / 500, rel=1e-5)
    assert got.likeliest.shape == targets.shape


def test_forms_are_compared_with_the_first() -> None:
    forms = [WHOLE, Form(torch.bfloat16, "int4")]
    scores = [
        Score(2.0, 1.0, torch.tensor([[1, 2, 3, 4]])),
        Score(2.25, 1.1, torch.tensor([[1, 2, 9, 4]])),
    ]

    rows = list(table(forms, scores))

    assert rows[2] == "| float32 | 2.0000 | +0.0000 | 7.389 | 1.0000 | 100.0% |"
    assert rows[3] == "| int4, bfloat16 | 2.2500 | +0.2500 | 9.488 | 1.1000 | 75.0% |"
