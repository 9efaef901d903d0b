"""Ids and text of published tokenizers are transformers', streamed or whole."""

from __future__ import annotations

import random
from typing import Any

from detokenizer_svc.decoder import Vocabulary

# Ours differ from transformers', for a reason.
REASONS = {
    "deepseek_v3": "bos is told by add_bos_token alone, as transformers 4 read it",
}
TEXTS = [
    "",
    "Hello, world!",
    " leading and trailing  ",
    "   ",
    "a\tb\n\n c\r\n",
    "def f(x):\n    return x + 12345 * 0.5\n",
    "don't I'LL we've 12345678901 3.14159",
    "Grüße aus Köln, 世界 und 🌍! Ça va? Да, всё хорошо.",
    "العربية עברית ไทย 한국어 हिन्दी",
    "ﬁ ㎏ e\u0301 \u00a0x \u200b\u2028",
    "👩‍👩‍👧‍👦 🇩🇪",
    "\x00\x01\x7f",
    "x" * 300,
    "<s>a</s> <|eot_id|>b<|im_start|> <bos> <EOT>\n<|endoftext|> <think> [INST]",
]


def test_texts_have_transformers_ids(checkpoint: Any) -> None:
    for text in TEXTS:
        ids = checkpoint.ours.encode(text).ids
        if checkpoint.name in REASONS:
            assert ids[0] == checkpoint.theirs.bos_token_id
            ids = ids[1:]
        assert ids == checkpoint.theirs(text)["input_ids"], text


def test_ids_have_transformers_text(checkpoint: Any) -> None:
    spelling = Vocabulary(checkpoint.ours)
    for ids in _sequences(checkpoint.ours):
        for skip in (True, False):
            text = checkpoint.theirs.decode(ids, skip_special_tokens=skip)
            assert spelling.decode(ids, skip_special=skip) == text, ids


def test_streamed_text_is_the_whole_text(checkpoint: Any) -> None:
    spelling = Vocabulary(checkpoint.ours)
    for ids in _sequences(checkpoint.ours):
        for skip in (True, False):
            decoder = spelling.decoder((), skip_special=skip)
            streamed = "".join(map(decoder.feed, ids)) + decoder.held()
            assert streamed == checkpoint.theirs.decode(ids, skip_special_tokens=skip), ids


def _sequences(tokenizer: Any) -> list[list[int]]:
    """The ids of the texts, and ids that no text has."""
    draw = random.Random(0)
    size = tokenizer.get_vocab_size()
    added = sorted(tokenizer.get_added_tokens_decoder())
    drawn = [[draw.randrange(size) for _ in range(12)] for _ in range(200)]
    mixed = [[draw.choice([*ids, draw.choice(added)]) for ids in [ids] * 8] for ids in drawn[:50]]
    return [*(tokenizer.encode(text).ids for text in TEXTS), *drawn, *mixed]
