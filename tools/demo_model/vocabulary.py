"""The demo model's tokenizer: byte-level BPE that knows Python's indentation and a chat's turns.

Invariant: every byte has a token, special tokens come first (`<|endoftext|>` is id 0), and decoding
an encoding gives the text back.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.demo_model.corpus import END_OF_TEXT, END_OF_TURN, ROLES

SPECIAL_TOKENS = (END_OF_TEXT, *(f"<|{role}|>" for role in ROLES), END_OF_TURN)

# As GPT-2 splits, but: indentation is one piece and never sticks to a word, a newline never sticks
# to what stands before it (so a prompt may end on either side of one), a word keeps its leading
# underscores, and English contractions are no case of their own.
PIECES = r"(?<=\n)[ \t]+|\n+| ?_*\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]+"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' ~ message['role'] ~ ': system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] ~ '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn the merges.

    Args:
        texts: training documents.
        vocab_size: entries wanted, special tokens and the 256 bytes among them.

    Raises:
        ValueError: the text is too small for that many entries.
    """
    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), byte_level]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the text yields {tokenizer.get_vocab_size()} entries, {vocab_size} are wanted"
        )
    return tokenizer


def encode_documents(tokenizer: Tokenizer, documents: Iterable[str]) -> np.ndarray:
    """Lay documents end to end, `<|endoftext|>` before each and after the last.

    Args:
        tokenizer: made by `train_tokenizer`.
        documents: texts; special tokens spelled in them become the real ones.

    Returns:
        Token ids `[tokens]` uint16.
    """
    separator = tokenizer.token_to_id(END_OF_TEXT)
    ids = [separator]
    for encoding in tokenizer.encode_batch(list(documents)):
        ids.extend(encoding.ids)
        ids.append(separator)
    return np.array(ids, dtype=np.uint16)


def bytes_per_token(tokenizer: Tokenizer) -> np.ndarray:
    """Bytes of text of each token, `[vocab]` int64; zero for special tokens."""
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, token_id in tokenizer.get_vocab().items():
        # The byte-level alphabet spells each byte as one character.
        lengths[token_id] = 0 if token in SPECIAL_TOKENS else len(token)
    return lengths


def tokenizer_config(tokenizer: Tokenizer, context: int) -> dict[str, object]:
    """The content of `tokenizer_config.json`, the chat template included.

    Args:
        tokenizer: made by `train_tokenizer`.
        context: longest sequence in tokens.
    """
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(tokenizer.token_to_id(token)): {"content": token, "special": True, **flags}
        for token in SPECIAL_TOKENS
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": added,
        "bos_token": None,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
        "chat_template": CHAT_TEMPLATE,
    }
